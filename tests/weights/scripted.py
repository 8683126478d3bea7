"""A network for TorchScript, which needs the source of a module; imported where torch is."""

import torch


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(2, 3)
        self.register_buffer("shift", torch.arange(3.0))
        self.tensors = [torch.ones(1), torch.zeros(2)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + self.shift + self.tensors[0]


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.bn = torch.nn.BatchNorm1d(2).half()
        self.head = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)[:, :2]
        return self.head(self.bn(x)) * self.scale
