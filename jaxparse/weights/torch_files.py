"""PyTorch's files read without PyTorch: zips, TorchScript archives, the format before 1.6.

A zip holds a pickle, data.pkl, and the numbers of each storage as a file data/KEY, little-endian. A
TorchScript archive is such a zip, whose pickle holds modules; their code is not looked at. The old
format is a row of pickles (a magic number, the version, sizes of types, the objects, the keys of
the storages) and then the storages, each behind its count. The facts are from PyTorch 2.13,
torch/serialization.py and torch/_utils.py.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from jaxparse.files import brief, reason
from jaxparse.weights.files import ZIP
from jaxparse.weights.pickles import Global, RefusedError, Unknown, load_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
DTYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": jnp.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}


@dataclass
class Storage:
    """The numbers to which tensors refer."""

    key: str
    dtype: np.dtype
    size: int  # numbers
    read: Callable[["Storage"], bytes]


@dataclass
class Tensor:
    """A tensor whose numbers are read when they are asked for; `strides` count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def fault(self) -> str | None:
        """What the tensor is that is not a plain one of real numbers."""
        if self.storage.dtype.kind == "c":
            return str(self.storage.dtype)
        if math.prod(self.shape) > self.storage.size:  # of one number, 10^10 fit a small file
            return f"{list(self.shape)} expanded from fewer numbers"
        return None

    def array(self) -> np.ndarray:
        """Float32. Raises ValueError if the tensor is not within its storage."""
        numbers = np.frombuffer(self.storage.read(self.storage), self.storage.dtype)
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * step for size, step in steps)
        outside = min(self.offset, *self.shape, *self.strides, 0) < 0 or last >= numbers.size
        if numbers.size != self.storage.size or (outside and math.prod(self.shape)):
            raise ValueError(f"a tensor {list(self.shape)} exceeds its storage")
        strides = [step * numbers.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides)
        return np.array(view, np.float32, order="C")


def _tensor(
    storage: Storage | Unknown, offset: int, shape: tuple, strides: tuple, *_: object
) -> Tensor | Unknown:
    return storage if isinstance(storage, Unknown) else Tensor(storage, offset, shape, strides)


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


def _subclass(rebuild: Global, _kind: Global, arguments: tuple, _state: object) -> Any:  # noqa: ANN401
    return CALLS[rebuild.name](*arguments)


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,  # before 0.4
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,  # tensors with attributes
}


@contextmanager
def open_torch(path: Path) -> Iterator[Any]:
    """What torch.load would return, with `Tensor` for tensors and `Unknown` for other objects.

    The arrays of tensors can be read within the block. Raises ValueError, which names the file, if
    it is damaged or none of torch's; a RefusedError of the block becomes one, too.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP
            file.seek(0)
            if is_zip:
                with zipfile.ZipFile(file) as archive:
                    yield _read_zip(archive)
            else:
                yield _read_old(file)
    except RefusedError as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        why = reason(error)
        raise ValueError(f"{path} is not a torch checkpoint or is truncated: {why}") from error


def _storage(identity: tuple[Any, ...], read: Callable[[Storage], bytes]) -> Any:  # noqa: ANN401
    """The object of a persistent id: a storage; in an old file also the class of a module."""
    kind, what, *rest = identity
    if kind == "module":
        return what
    key, _, size, *view = rest
    name = what.name.split(".")[-1].removesuffix("Storage")
    if name not in DTYPES or any(view):  # quantized, or a part of another storage: before 0.4
        return Unknown(what.name)
    return Storage(key, np.dtype(DTYPES[name]), size, read)


def _read_zip(archive: zipfile.ZipFile) -> Any:  # noqa: ANN401
    names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        raise RefusedError("is a .npz of numpy: give the checkpoint that it was made from")
    found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise RefusedError(
            "is a zip archive, not a torch checkpoint: unpack it and give the file with the weights"
        )
    folder = found[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        try:
            return archive.read(f"{folder}{name}")
        except (zipfile.BadZipFile, zlib.error) as error:
            raise RefusedError(
                f"is damaged: {brief(name)} has another checksum; copy it again"
            ) from error

    if f"{folder}byteorder" in names and member("byteorder") != b"little":
        raise RefusedError("was saved on a big-endian machine; save it on a usual one")

    def read(storage: Storage) -> bytes:
        return member(f"data/{storage.key}")

    return load_pickle(io.BytesIO(member("data.pkl")), CALLS, lambda i: _storage(i, read))


def _read_old(file: BinaryIO) -> Any:  # noqa: ANN401
    places: dict[str, int] = {}
    storages: dict[str, Storage] = {}

    def read(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.size * storage.dtype.itemsize)

    def persistent(identity: tuple[Any, ...]) -> object:
        found = _storage(identity, read)
        return storages.setdefault(found.key, found) if isinstance(found, Storage) else found

    def pickled() -> Any:  # noqa: ANN401
        return load_pickle(file, CALLS, persistent)

    if pickled() != MAGIC:
        raise RefusedError(
            "is a pickle, but not a torch checkpoint: save the state dict by torch.save"
        )
    _version, _sizes, root, keys = pickled(), pickled(), pickled(), pickled()
    place = file.tell()
    end = file.seek(0, io.SEEK_END)
    for key in keys:
        file.seek(place)
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.size:
            raise ValueError(f"storage {key} is of another size")
        places[key] = place + 8
        place = places[key] + storage.size * storage.dtype.itemsize
        if place > end:
            raise ValueError(f"it ends within storage {key}")
    return root


def is_torchscript(root: object) -> bool:
    """Whether the pickle's object is a module of a TorchScript archive."""
    return isinstance(root, Unknown) and root.name.startswith("__torch__")


def torchscript_tensors(module: Unknown, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers by the paths of attributes to them, as in a state dict.

    Lists and dicts of tensors, which no state dict holds either, are left out.
    """
    found: dict[str, Tensor] = {}
    for name, value in (module.state or {}).items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif is_torchscript(value):
            found |= torchscript_tensors(value, f"{prefix}{name}.")
    return found


def is_module(value: object) -> bool:
    """Whether this is a whole pickled torch.nn.Module, or the class of one."""
    state = value.state if isinstance(value, Unknown) else None
    return isinstance(state, dict) and "_modules" in state


def described(value: object) -> str:
    """What a value in place of a tensor is, for messages."""
    return brief(value.name if isinstance(value, Unknown | Global) else type(value).__name__)
