"""Weight files of other packages: read, fetched from timm's repositories, written for PyTorch.

No code in a file is ever run: a pickle may only refer to tensors and to the names below.
"""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxparse.files import atomic_path, brief, reason
from jaxparse.weights.files import ZIP, kind_of_file, read_safetensors
from jaxparse.weights.torchscript import folder_of, read_torchscript

# Classes and functions to which the logs in a training checkpoint of mmengine refer. None is run:
# `Ignored` replaces each of them.
IGNORED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # HistoryBuffer pickles its methods as getattr(HistoryBuffer, name)
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{c}.multiarray.{f}" for c in ("core", "_core") for f in ("_reconstruct", "scalar")),
)


# Keys of dicts that hold the state dict, in SegFace's and FaRL's training checkpoints too.
WRAPPERS = ("state_dict", "model", "state_dict_backbone", "networks", "main_ema")


class Ignored:
    """Replaces an object that holds no weights, and keeps nothing of it."""

    def __new__(cls, *args: object) -> "Ignored":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Arrays, all float32, by their names in a .safetensors or a torch file.

    The kind is told by the content, not by the suffix. Raises ValueError for a file that is
    damaged, holds no weights or values that are not finite numbers, or asks to run code.
    """
    kind = kind_of_file(path) or path.suffix[1:]
    read = _read_safetensors if kind == "safetensors" else _read_torch
    arrays = {name.removeprefix("module."): array for name, array in read(path).items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path} holds values in {brief(name)} that are not finite numbers")
    return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    arrays, _ = read_safetensors(path)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    _require_intact_zip(path)
    if folder := folder_of(path):
        return read_torchscript(path, folder)
    try:
        import torch
    except ImportError as error:
        fix = "pip install 'jaxparse[torch]', or give a .safetensors file"
        raise ValueError(f"{path} needs PyTorch to be read: {fix}") from error
    stand_ins = torch.serialization.safe_globals([(Ignored, name) for name in IGNORED])
    try:
        # An open file: torch reads a path that ends in .safetensors by another way.
        with stand_ins, warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise anything
        code = re.search(r"GLOBAL (\S+) (was not|whose)", str(error))
        if code:
            raise ValueError(
                f"{path} is refused: it asks for {brief(code[1])}, which may run code; give a "
                "file that holds only weights"
            ) from error
        why = reason(error).split("WeightsUnpickler error: ")[-1]
        raise ValueError(f"{path} is not a torch checkpoint or is truncated: {why}") from error
    weights = _unwrap(checkpoint)
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path} is not the checkpoint of a network: it holds no state dict")
    for key, value in weights.items():
        if fault := _fault_of(value):
            raise ValueError(
                f"{path} holds {brief(key)} as {fault}; expected plain tensors of numbers: save "
                "the state dict of the model on the CPU"
            )
    return {str(key): value.detach().float().numpy() for key, value in weights.items()}


def _fault_of(tensor: Any) -> str | None:  # noqa: ANN401
    """What a torch tensor is that is not a plain one of numbers."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
    if tensor.is_complex():
        return str(tensor.dtype)
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return f"{list(tensor.shape)} expanded from fewer numbers"  # of one, 10^10 fit a small file
    return None


def _require_intact_zip(path: Path) -> None:
    """Raises ValueError if a checksum of torch's zip does not match: torch reads on."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # of a damaged directory, any
        why = reason(error)
        raise ValueError(f"{path} is not a torch checkpoint or is truncated: {why}") from error
    if damaged:
        raise ValueError(f"{path} is damaged: {brief(damaged)} has another checksum; copy it again")


def _unwrap(checkpoint: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """The state dict in what torch.load returned; empty if that is not a dict."""
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and key in checkpoint:
            checkpoint = checkpoint[key]
    return checkpoint if isinstance(checkpoint, Mapping) else {}


def write_torch(path: Path, state_dict: Mapping[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a .pth as mmengine does. Raises ValueError if PyTorch is not installed."""
    try:
        import torch
    except ImportError as error:
        fix = "pip install 'jaxparse[torch]'"
        raise ValueError(f"{path} needs PyTorch to be written: {fix}") from error
    # Copies: torch refuses read-only arrays, and would keep the strides of transposed ones.
    tensors = {key: torch.from_numpy(np.array(a, order="C")) for key, a in state_dict.items()}
    with atomic_path(path) as temporary:
        torch.save({"meta": meta, "state_dict": tensors}, temporary)
