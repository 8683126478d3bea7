"""TorchScript files, as torch.jit writes them, and such as nobody should read."""

import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxparse.weights.foreign import read_checkpoint
from tests.foreign import NEEDS_TORCH, require_equal
from tests.refusal import refuses


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
    arrays = read_checkpoint(path)
    assert len(expected) == 12
    require_equal(arrays, expected)


class Attack:
    """Pickles as a call of `eval`."""

    def __reduce__(self) -> tuple:
        return eval, ("1 / 0",)


def archive(path: Path, pickled: bytes, **storages: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", pickled)
        file.writestr("net/constants.pkl", pickle.dumps(()))
        for key, content in storages.items():
            file.writestr(f"net/data/{key[1:]}", content)
    return path


def test_code_is_refused(tmp_path: Path) -> None:
    with refuses("evil.pt", "builtins.eval"):
        read_checkpoint(archive(tmp_path / "evil.pt", pickle.dumps(Attack())))


def module_with_a_tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """The pickle of a module with the tensor `weight` in a storage of four numbers, by hand."""
    numbers = [offset, size, stride]
    pushed = b"".join(pickle.dumps(x, 2)[2:-1] for x in numbers)  # without header and stop
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + pushed + b"\x89}tR"
    return b"\x80\x02c__torch__\nNet\n)\x81}X\x06\x00\x00\x00weight" + tensor + b"sb."


def test_a_tensor_by_hand(tmp_path: Path) -> None:
    numbers = np.arange(4, dtype=np.float32).tobytes()
    path = archive(tmp_path / "f.pt", module_with_a_tensor((2,), (2,), 1), _0=numbers)
    assert read_checkpoint(path)["weight"].tolist() == [1, 3]


@pytest.mark.parametrize(
    "size, stride, offset",
    [((5,), (1,), 0), ((4,), (1,), 1), ((100_000, 100_000), (0, 0), 0), ((2,), (-1,), 1)],
)
def test_tensors_beyond_their_numbers_are_refused(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    numbers = np.arange(4, dtype=np.float32).tobytes()
    path = archive(tmp_path / "f.pt", module_with_a_tensor(size, stride, offset), _0=numbers)
    with refuses("f.pt", "does not fit 4 numbers"):
        read_checkpoint(path)


def test_a_module_without_parameters(tmp_path: Path) -> None:
    pickled = b"\x80\x02c__torch__\nNet\n)\x81}b."
    with refuses("f.pt", "without parameters"):
        read_checkpoint(archive(tmp_path / "f.pt", pickled))
