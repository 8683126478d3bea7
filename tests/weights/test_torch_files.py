"""PyTorch's files: every format gives its numbers without PyTorch, none runs code."""

import collections
import os
import pickle
import pickletools
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.weights.foreign import read_checkpoint
from tests.foreign import NEEDS_TORCH, require_equal
from tests.refusal import refuses
from tests.torch_files import Call, Named, tensor, write_old, write_zip

Write = Callable[[Path, object], Path]
FORMATS = pytest.mark.parametrize("write", [write_zip, write_old])
WEIGHTS = {"conv.weight": np.arange(24, dtype="f4").reshape(2, 3, 2, 2), "scale": np.float32([3])}


@FORMATS
@pytest.mark.parametrize("dtype", ["f2", jnp.bfloat16, "f4", "f8", "i8", "i4", "u1", "?"])
def test_every_type_becomes_float32(write: Write, dtype: Any, tmp_path: Path) -> None:  # noqa: ANN401
    array = np.asarray([[0, 1, 3], [96, 0, 104]]).astype(dtype)
    weights = {"a.weight": array, "a.steps": np.array(array[0, 0]), "none": array[:0]}
    expected = {name: x.astype(np.float32) for name, x in weights.items()}
    require_equal(read_checkpoint(write(tmp_path / "f.pth", weights)).arrays, expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_torch_writes(zipped: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    base = torch.arange(60.0).reshape(3, 4, 5)
    marked = torch.ones(2)
    marked.note = "an attribute"
    weights = {
        "transposed": base.permute(2, 0, 1),
        "part": base[1:, ::2, 3],
        "scalar": base[2, 1, 1],
        "parameter": torch.nn.Parameter(base[0]),
        "half": base.half(),
        "brain": base.bfloat16() / 3,
        "marked": marked,
    }
    path = tmp_path / "f.pth"
    torch.save(collections.OrderedDict(weights), path, _use_new_zipfile_serialization=zipped)
    require_equal(
        read_checkpoint(path).arrays,
        {name: tensor.detach().float().numpy() for name, tensor in weights.items()},
    )


@FORMATS
def test_torch_reads_what_is_written_by_hand(write: Write, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    read = torch.load(write(tmp_path / "f.pth", WEIGHTS), weights_only=False)
    require_equal({name: tensor.numpy() for name, tensor in read.items()}, WEIGHTS)


HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
BESIDE = {
    "counter": Call("collections.Counter", ({1: 2},)),
    "default": Call("collections.defaultdict", (Named("builtins.list"),)),
    "args": Call("argparse.Namespace", (), {"lr": 0.1, "out": Call("pathlib.PosixPath", ("a",))}),
    "omegaconf": Call("omegaconf.dictconfig.DictConfig", (), {"_content": {}, "_parent": None}),
    "hub": Call(HISTORY, (), {"min": Call("builtins.getattr", (Named(HISTORY), "min"))}),
    "numpy": Call("numpy.core.multiarray.scalar", (Call("numpy.dtype", ("f8", False, True)), "x")),
    "curried": Call(Call("builtins.getattr", (Named("torch.Tensor"), "add")), (1,)),
    "optimizer": {"state": {0: {"step": 1, "exp_avg": np.ones(3, "f4")}}, "param_groups": [{}]},
    "epoch": 3,
    "best": np.array(0.5),
}


@FORMATS
def test_what_lies_beside_the_weights_is_skipped(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "f.pth", {**BESIDE, "state_dict": WEIGHTS})
    require_equal(read_checkpoint(path).arrays, WEIGHTS)


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
        weights = {key: torch.from_numpy(array) for key, array in WEIGHTS.items()}
        state = {"optimizer": optimizer.state_dict(), "message_hub": hub, "state_dict": weights}
        torch.save(state, path)
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    assert {"builtins.getattr", HISTORY} < set(needed)
    require_equal(read_checkpoint(path).arrays, WEIGHTS)


class Command:
    """Runs when it is unpickled."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def in_zip(path: Path, data: bytes) -> Path:
    """A torch file around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return path


@pytest.mark.parametrize("key", ["state_dict", "optimizer"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function, asked", [(os.mkdir, "posix.mkdir"), (eval, ".eval")])
def test_pickle_that_runs_code_is_refused(
    function: Callable, asked: str, protocol: int, key: str, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    argument = str(made) if function is os.mkdir else f"__import__('os').mkdir({str(made)!r})"
    content = {"state_dict": {}} | {key: {"patch_embed.proj.bias": Command(function, argument)}}
    data = pickle.dumps(content, protocol)
    paths = [in_zip(tmp_path / "zip.pth", data)]
    if protocol:
        (tmp_path / "old.pth").write_bytes(data)
        paths.append(tmp_path / "old.pth")
    for path in paths:
        with refuses(path, f"{asked}, which may run code") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)
    assert not made.exists()
    pickle.loads(data)
    assert made.is_dir()  # what an ordinary load would have done


def test_attributes_of_attributes_are_not_looked_up(tmp_path: Path) -> None:
    made = tmp_path / "made"
    # getattr(getattr(tempfile, "_os"), "mkdir")(made): asks for no harmful name itself.
    tempfile = Call("builtins.getattr", (Named("tempfile._os"), "mkdir"))
    content = {"state_dict": {"bias": Call(tempfile, (str(made),))}}
    path = write_zip(tmp_path / "f.pth", content)
    with refuses(path, "no state dict"):
        read_checkpoint(path)
    assert not made.exists()
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert made.is_dir()


# Each calls tests.weights.test_torch_files.called("x"), or makes one of it, in its own way.
NAME = f"c{__name__}\ncalled\n".encode()
CALLS = {
    "REDUCE": NAME + b"(Vx\ntR",
    "OBJ": b"(" + NAME + b"Vx\no",
    "INST": b"(Vx\n" + b"i" + NAME[1:],
    "NEWOBJ": NAME + b"(Vx\nt\x81",
    "NEWOBJ_EX": NAME + b"(Vx\nt}\x92",
    "STACK_GLOBAL": f"V{__name__}\nVcalled\n".encode() + b"\x93(Vx\ntR",
    "BUILD": NAME + b"(tR}Vx\nVy\nsb",
}
found: list[str] = []


class called:  # noqa: N801
    def __new__(cls, *args: str, **kwargs: str) -> "called":
        found.extend(args)
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        found.append("state")


@pytest.mark.parametrize("opcode", CALLS)
def test_no_opcode_calls_anything(opcode: str, tmp_path: Path) -> None:
    data = b"\x80\x04}(V__\n" + CALLS[opcode] + b"u."
    assert opcode in [found.name for found, *_ in pickletools.genops(data)]
    found.clear()
    with refuses(in_zip(tmp_path / "f.pth", data), "no state dict"):
        read_checkpoint(tmp_path / "f.pth")
    assert found == []
    pickle.loads(data)
    assert found != []


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"Pid\n", b"\x97"])  # EXT1, PERSID, NEXT_BUFFER
def test_opcodes_that_torch_does_not_write(opcode: bytes, tmp_path: Path) -> None:
    with refuses(in_zip(tmp_path / "f.pth", b"\x80\x02" + opcode + b"."), "opcode"):
        read_checkpoint(tmp_path / "f.pth")


def test_tensors_that_are_not_plain_numbers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / "f.pth"
    with warnings.catch_warnings(action="ignore"):  # torch's quantized tensors are deprecated
        quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    for refused, words in (
        (torch.zeros(3).to_sparse(), "sparse"),
        (torch.zeros(3, device="meta"), "meta"),
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (quantized, "qtensor"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.zeros(1).expand(10**10), "expanded"),
    ):
        torch.save({"state_dict": {"a.weight": refused}}, path)
        with refuses(path, "a.weight", words):
            read_checkpoint(path)


@FORMATS
@pytest.mark.parametrize(
    "offset, shape, strides",
    [(1, (2, 3), (3, 1)), (-1, (2,), (1,)), (0, (2, 2), (5, 1)), (0, (2,), (-1,)), (0, (6,), ())],
)
def test_tensors_outside_their_storage(
    write: Write, offset: int, shape: tuple, strides: tuple, tmp_path: Path
) -> None:
    whole = tensor(np.arange(6, dtype="f4"), "0")
    part = whole._replace(args=(whole.args[0], offset, shape, strides, *whole.args[4:]))
    path = write(tmp_path / "f.pth", {"all": np.arange(6, dtype="f4"), "part": part})
    with refuses(path, "truncated"):
        read_checkpoint(path)


@FORMATS
def test_file_cut_short(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "f.pth", {"patch_embed.proj.bias": np.ones(1000, np.float32)})
    for size in (100, path.stat().st_size - 100):
        path.write_bytes(path.read_bytes()[:size])
        with refuses(path, "truncated"):
            read_checkpoint(path)


def test_a_bit_of_torchs_zip_is_missed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", {"head.bias": np.arange(50, dtype=np.float32)})
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(7).tobytes() + np.float32(8).tobytes())] ^= 1
    path.write_bytes(data)
    with refuses(path, "checksum"):
        read_checkpoint(path)


@pytest.mark.parametrize("wrapper", [None, "model", "ema"])
def test_whole_pickled_module(wrapper: str | None, tmp_path: Path) -> None:
    parts = {"_parameters": {"a": np.ones(1, np.float32)}, "_modules": {}}
    module = Call("models.bisenet.BiSeNet", (), parts)
    path = write_zip(tmp_path / "f.pth", {wrapper: module, "epoch": 3} if wrapper else module)
    with refuses(path, "models.bisenet.BiSeNet", "state_dict()"):
        read_checkpoint(path)


def test_whole_module_that_torch_pickles(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    for zipped in (True, False):
        path = tmp_path / "f.pth"
        torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
        with refuses(path, "torch.nn.modules.linear.Linear", "state_dict()"):
            read_checkpoint(path)


def test_a_file_of_a_big_endian_machine(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.pth", WEIGHTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    with refuses(path, "big-endian"):
        read_checkpoint(path)
