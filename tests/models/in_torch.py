"""Layers by the names of this package's arrays, written for torch, to compare networks with."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from jaxparse.weights.files import flatten

Arrays = dict[str, np.ndarray]
Tensor = Any  # torch is imported late: it may be missing


def random_state(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Arrays, Arrays]:
    """Graph definition, random params and batch_stats by dotted name, float64."""
    graphdef, params, stats = nnx.split(nnx.eval_shape(build), nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)
    params, stats = (
        {k: rng.uniform(0.1, 1, v.shape) for k, v in flatten(nnx.to_pure_dict(tree)).items()}
        for tree in (params, stats)
    )
    kernels = {k: rng.normal(0, v[..., 0].size ** -0.5, v.shape) for k, v in params.items()}
    return graphdef, params | {k: v for k, v in kernels.items() if v.ndim == 4}, stats


class InTorch:
    """Convolutions and batch norms, on [B, C, H, W]; `tensors` holds the arrays by name."""

    def __init__(self, params: Arrays, stats: Arrays, training: bool = False) -> None:
        import torch

        self.training = training
        self.tensors = {name: torch.tensor(array) for name, array in (params | stats).items()}
        for name in params:
            self.tensors[name].requires_grad_(training)

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        from torch.nn.functional import conv2d

        kernel = self.tensors[f"{name}.kernel"].permute(3, 2, 0, 1)
        return conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        from torch.nn.functional import batch_norm

        parts = (self.tensors[f"{name}.{key}"] for key in ("mean", "var", "scale", "bias"))
        return batch_norm(x, *parts, training=self.training, momentum=0.1, eps=1e-5)

    def conv_norm_act(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self.norm(self.conv(x, f"{name}.conv", stride), f"{name}.bn").relu()

    def basic_block(self, x: Tensor, name: str, stride: int) -> Tensor:
        out = self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
        out = self.norm(self.conv(out, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.kernel" in self.tensors:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (out + x).relu()
