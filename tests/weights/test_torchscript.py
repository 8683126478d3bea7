"""TorchScript archives, as torch.jit writes them and by hand."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxparse.weights.foreign import read_checkpoint
from tests.foreign import NEEDS_TORCH, require_equal
from tests.refusal import refuses
from tests.torch_files import Call, write_zip


def written(path: Path, script: Callable) -> dict[str, np.ndarray]:
    """Writes a module; its state dict, float32, as torch knows it."""
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    nn = torch.nn
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "convs": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU()),
            "turned": nn.Linear(4, 5).half(),
            "cut": nn.Linear(2, 2).to(torch.bfloat16),
        }
    )
    model["turned"].weight = nn.Parameter(model["turned"].weight.detach().T)  # other strides
    model["cut"].bias = nn.Parameter(torch.arange(9.0).to(torch.bfloat16)[3:7:2])  # an offset

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model
            self.sizes = [1, 2]
            self.register_buffer("image_mean", torch.tensor([0.25, 0.5, 1.0]).view(1, 3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parts["convs"](x - self.image_mean)

    whole = Whole().eval()
    script(torch, whole).save(str(path))
    return {key: value.detach().float().numpy() for key, value in whole.state_dict().items()}


@pytest.mark.filterwarnings("ignore:.*is deprecated.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*not supported in Python.*:DeprecationWarning")
@pytest.mark.parametrize("way", ["trace", "script"])
def test_arrays_are_those_of_the_state_dict(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {
        "trace": lambda torch, module: torch.jit.trace(module, torch.ones(1, 3, 8, 8)),
        "script": lambda torch, module: torch.jit.script(module),
    }
    path = tmp_path / "jit.pt"
    expected = written(path, ways[way])
    monkeypatch.setitem(sys.modules, "torch", None)  # it is not needed
    arrays = read_checkpoint(path).arrays
    assert len(expected) == 12
    require_equal(arrays, expected)


def module(name: str, **attributes: object) -> Call:
    """A module of a TorchScript archive."""
    return Call(f"__torch__.{name}", (), {"training": True, "hook": None, **attributes})


def test_torchscript_gives_names_by_attribute_paths(tmp_path: Path) -> None:
    fc = module("torch.nn.modules.linear.Linear", weight=np.ones((2, 3), "f4"))
    blocks = {"0": fc, "1": module("Block", fc=fc, scale=np.ones((), "f2"))}
    skipped = {"sizes": [1, 2], "tensors": [np.zeros(3, "f4")]}
    root = module("Net", layers=module("ModuleList", **blocks), mean=np.ones(3, "f4"), **skipped)
    one = np.ones((2, 3), np.float32)
    expected = {"layers.0.weight": one, "layers.1.fc.weight": one}
    expected |= {"layers.1.scale": np.array(1, np.float32), "mean": np.ones(3, np.float32)}
    require_equal(read_checkpoint(write_zip(tmp_path / "f.pt", root)).arrays, expected)


def test_torchscript_without_parameters(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.pt", module("Net", sizes=[1, 2], child=module("Empty")))
    with refuses(path, "TorchScript without parameters", "freeze"):
        read_checkpoint(path)
