"""Reading and writing weight files; the pickles are safe, the hub is a folder."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxparse.weights.foreign import read_checkpoint, write_torch
from tests import foreign
from tests.foreign import NEEDS_TORCH, require_equal, write
from tests.refusal import refuses


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_becomes_float32(suffix: str, dtype: str, tmp_path: Path) -> None:
    state_dict = foreign.timm()
    halved = {key: np.asarray(jnp.asarray(a, dtype)) for key, a in state_dict.items()}
    path = tmp_path / f"theirs{suffix}"
    if suffix == ".safetensors":
        save_file(halved, path)
    else:
        torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
        half = getattr(torch, dtype)
        torch.save({k: torch.from_numpy(a).to(half) for k, a in state_dict.items()}, path)
    require_equal(read_checkpoint(path), {k: a.astype(np.float32) for k, a in halved.items()})


def test_prefix_of_data_parallel_training_is_dropped(tmp_path: Path) -> None:
    wrapped = {f"module.{key}": array for key, array in foreign.timm().items()}
    require_equal(read_checkpoint(write(tmp_path / "f.safetensors", wrapped)), foreign.timm())


class HistoryBuffer:
    """Pickles like mmengine's."""

    def __init__(self) -> None:
        self.max_length, self._log_history = 10, np.array([1.5, 2.5])

    def min(self) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_statistics_methods": {"min": HistoryBuffer.min}}


def test_training_checkpoint_of_mmengine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    module = ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    path = tmp_path / "iter_10.pth"
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", module.__name__):
            patch.setitem(sys.modules, name, module)
        patch.setattr(HistoryBuffer, "__module__", module.__name__)
        patch.setattr(HistoryBuffer.min, "__module__", module.__name__)
        hub = {"log_scalars": {"loss": HistoryBuffer()}, "runtime_info": {"best": np.float64(3)}}
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter])
        parameter.sum().backward()
        optimizer.step()
        weights = {key: torch.from_numpy(array) for key, array in foreign.timm().items()}
        state = {"optimizer": optimizer.state_dict(), "message_hub": hub, "state_dict": weights}
        torch.save(state, path)
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    assert {"builtins.getattr", "mmengine.logging.history_buffer.HistoryBuffer"} < set(needed)
    allowed = set(torch.serialization.get_safe_globals())
    require_equal(read_checkpoint(path), foreign.timm())
    assert set(torch.serialization.get_safe_globals()) == allowed


class Command:
    """Runs when it is unpickled."""

    def __init__(self, function: Callable, *args: str) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function, asked", [(os.mkdir, "posix.mkdir"), (eval, "eval")])
def test_pickle_that_runs_code_is_refused(
    function: Callable, asked: str, zipped: bool, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    made = tmp_path / "made"
    argument = str(made) if function is os.mkdir else f"__import__('os').mkdir({str(made)!r})"
    content = {"state_dict": {"patch_embed.proj.bias": Command(function, argument)}}
    path = tmp_path / "evil.pth"
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with refuses(path, f"{asked}, which may run code") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not made.exists()
    pickle.loads(pickle.dumps(content))
    assert made.is_dir()  # what an ordinary load would have done


@pytest.mark.parametrize(
    "name, content, word",
    [
        ("f.pth", b"", "EOFError"),
        ("f.pth", b"weights\n", "not a torch checkpoint"),
        ("f.safetensors", b"", "not a safetensors file"),
        ("f.safetensors", b"weights\n", "not a safetensors file"),
    ],
)
def test_file_of_another_kind(name: str, content: bytes, word: str, tmp_path: Path) -> None:
    if name.endswith(".pth"):
        pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / name
    path.write_bytes(content)
    with refuses(path, word):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_cut_short(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"f{suffix}", {"patch_embed.proj.bias": np.ones(1000, np.float32)})
    for size in (100, path.stat().st_size - 100):
        path.write_bytes(path.read_bytes()[:size])
        with refuses(path, "truncated"):
            read_checkpoint(path)


def test_pth_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "f.pth"
    path.write_bytes(b"")
    with refuses("f.pth", "pip install 'jaxparse[torch]'", ".safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"epoch": 3}}, {"model": 5}])
def test_pth_without_weights(content: object, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / "f.pth"
    torch.save(content, path)
    with refuses("f.pth", "state dict"):
        read_checkpoint(path)


def test_pth_is_written_as_mmengine_writes_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / "new" / "f.pth"
    arrays = {"weight": np.arange(6, dtype="f4").reshape(2, 3).T, "steps": np.zeros((), np.int64)}
    arrays["weight"].flags.writeable = False
    write_torch(path, arrays, {"CLASSES": ["skin"]})
    content = torch.load(path, weights_only=True)
    assert content["meta"] == {"CLASSES": ["skin"]}
    assert content["state_dict"]["weight"].is_contiguous()
    require_equal({k: v.numpy() for k, v in content["state_dict"].items()}, arrays)
    assert [p.name for p in path.parent.iterdir()] == ["f.pth"]  # no temporary left


def test_pth_is_not_written_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with refuses("f.pth", "pip install 'jaxparse[torch]'"):
        write_torch(tmp_path / "f.pth", {}, {})


@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "gzip"),
        (b"\x08\x07\x12\x07pytorch" + bytes(60), "ONNX"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_often_taken_for_weights(
    tmp_path: Path, content: bytes, words: str, suffix: str
) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    with refuses(path, words):
        read_checkpoint(path)


def test_the_suffix_is_not_believed(tmp_path: Path) -> None:
    for suffix, other in ((".safetensors", ".pth"), (".pth", ".safetensors")):
        path = write(tmp_path / f"f{suffix}", foreign.timm())
        require_equal(read_checkpoint(path.rename(tmp_path / f"g{other}")), foreign.timm())


def test_tensors_that_are_not_plain_numbers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / "f.pth"
    for tensor, words in (
        (torch.zeros(3).to_sparse(), "sparse"),
        (torch.zeros(3, device="meta"), "meta"),
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.zeros(1).expand(10**10), "expanded"),
    ):
        torch.save({"state_dict": {"a.weight": tensor}}, path)
        with refuses(path, "a.weight", words):
            read_checkpoint(path)


def test_a_bit_of_torchs_zip_is_missed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"head.bias": np.arange(50, dtype=np.float32)})
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(7).tobytes() + np.float32(8).tobytes())] ^= 1
    path.write_bytes(data)
    with refuses(path, "checksum"):
        read_checkpoint(path)
