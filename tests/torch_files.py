"""PyTorch's files written by hand, so that reading them is tested without PyTorch."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparse.weights.torch_files import DTYPES, MAGIC

TYPES = {np.dtype(dtype): f"torch.{name}Storage" for name, dtype in DTYPES.items()}


class Call(NamedTuple):
    """A call that a pickle asks for, and the attributes that it then sets."""

    function: "str | Call"  # module.name, or what another call gives
    args: tuple = ()
    state: object = None


class Named(NamedTuple):
    """A class or function that a pickle names."""

    name: str


class Whole(NamedTuple):
    """The id of a storage, by which torch finds the numbers."""

    identity: tuple


def tensor(array: np.ndarray, key: str, view: tuple = ()) -> Call:
    """What torch pickles for a tensor; in the old format a storage's id says what it is part of."""
    strides = tuple(step // array.itemsize for step in np.empty_like(array, order="C").strides)
    storage = Whole(("storage", Named(TYPES[array.dtype]), key, "cpu", array.size, *view))
    args = (storage, 0, array.shape, strides, False, Call("collections.OrderedDict"))
    return Call("torch._utils._rebuild_tensor_v2", args)


class Pickler:
    """Opcodes of protocol 2 for plain values, calls and arrays, which are kept as storages."""

    def __init__(self, view: tuple = ()) -> None:
        self.storages: list[np.ndarray] = []
        self.view = view

    def pickle(self, value: object) -> bytes:
        return b"\x80\x02" + self.dump(value) + b"."

    def dump(self, value: Any) -> bytes:  # noqa: ANN401
        match value:
            case Call():
                function, args, state = value
                named = Named(function) if isinstance(function, str) else function
                built = self.dump(state) + b"b" if state is not None else b""
                return self.dump(named) + self.dump(args) + b"R" + built
            case Named():
                return b"c" + "\n".join(value.name.rsplit(".", 1)).encode() + b"\n"
            case Whole():
                return self.dump(value.identity) + b"Q"
            case np.ndarray():
                self.storages.append(value)
                return self.dump(tensor(value, str(len(self.storages) - 1), self.view))
            case bool() | None:
                return {True: b"\x88", False: b"\x89", None: b"N"}[value]
            case int():
                return b"I%d\n" % value
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case tuple() | list():
                return b"(" + b"".join(map(self.dump, value)) + (b"t", b"l")[type(value) is list]
            case dict():
                pairs = (self.dump(key) + self.dump(item) for key, item in value.items())
                return b"(" + b"".join(pairs) + b"d"
        raise TypeError(type(value))


def write_zip(path: Path, content: object) -> Path:
    """As torch.save since 1.6; TorchScript looks the same."""
    pickler = Pickler()
    members = {"data.pkl": pickler.pickle(content), "version": b"3\n"}
    members |= {f"data/{i}": x.tobytes() for i, x in enumerate(pickler.storages)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return path


def write_old(path: Path, content: object) -> Path:
    """As torch.save before 1.6."""
    file, pickler = io.BytesIO(), Pickler(view=(None,))
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    for value in (MAGIC, 1001, sizes, content):
        file.write(pickler.pickle(value))
    file.write(pickler.pickle([str(i) for i in range(len(pickler.storages))]))
    for array in pickler.storages:
        file.write(array.size.to_bytes(8, "little") + array.tobytes())
    path.write_bytes(file.getvalue())
    return path
