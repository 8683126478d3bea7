"""Arrays in a TorchScript file, which torch.jit.save wrote, read without torch.

A zip: `data.pkl` is a pickle of the module and its parts, whose tensors lie in `data/`; `code/`
holds their program. None of it is run: a pickle may only refer to modules, tensors and lists.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxparse.files import brief, reason

# Of each kind of storage; bfloat16 is the upper half of float32.
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class ScriptModule:
    """A module, or another object of the program: its attributes by name."""

    def __new__(cls, *_: object) -> "ScriptModule":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def rebuilt(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: object) -> np.ndarray:
    """The tensor of that size within a storage; strides and offset count numbers."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or math.prod(size) > len(storage) or last >= len(storage):
        raise pickle.UnpicklingError(f"a tensor of {size} does not fit {len(storage)} numbers")
    strides = [step * storage.itemsize for step in stride]
    array = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
    return np.ascontiguousarray(array)


class Unpickler(pickle.Unpickler):
    """Of `data.pkl`; tensors are read from the same archive."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        """What a global name stands for. Raises UnpicklingError for any but these."""
        if module.startswith("__torch__"):
            return ScriptModule
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuilt
        if module == "torch" and name in STORAGES:
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        raise pickle.UnpicklingError(f"it asks for {brief(f'{module}.{name}')}")

    def persistent_load(self, pid: Any) -> np.ndarray:  # noqa: ANN401
        """The numbers of a storage, [N]."""
        _, kind, key, *_ = pid
        content = self.archive.read(f"{self.folder}data/{key}")
        numbers = np.frombuffer(content, STORAGES[kind])
        if kind == "BFloat16Storage":
            return (numbers.astype("<u4") << 16).view("<f4")
        return numbers


def folder_of(path: Path) -> str | None:
    """The folder in the zip that holds the module; None if the file is not TorchScript."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    found = (name.removesuffix("constants.pkl") for name in names if name.endswith("constants.pkl"))
    return next((folder for folder in found if f"{folder}data.pkl" in names), None)


def tensors_of(module: ScriptModule, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Dotted name and array of each parameter and buffer."""
    for name, value in module.attributes.items():
        if isinstance(value, np.ndarray):
            yield f"{prefix}{name}", value
        elif isinstance(value, ScriptModule):
            yield from tensors_of(value, f"{prefix}{name}.")


def read_torchscript(path: Path, folder: str) -> dict[str, np.ndarray]:
    """Arrays float32 by name. Raises ValueError for a file that is damaged or asks to run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            module = Unpickler(archive, folder).load()
        arrays = dict(tensors_of(module))
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(
            f"{path} is not a TorchScript file that is read: {reason(error)}"
        ) from error
    if not arrays:
        raise ValueError(f"{path} is a TorchScript file without parameters: give the original")
    return {name: array.astype(np.float32) for name, array in arrays.items()}
