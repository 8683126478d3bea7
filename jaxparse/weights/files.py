"""Weights on disk: one flat safetensors file that records the network it is for.

Dotted names and this package's own layout (kernels HWIO and [in, out]); the network, the classes
and the origin of the weights are metadata. They load strictly.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, Classes
from jaxparse.config import Config, config_from, config_json
from jaxparse.files import atomic_path, brief, reason

# In a run's folder: the weights of its best evaluation, of the best of their moving average, and
# their mean over the last evaluations.
BEST_WEIGHTS = "best.safetensors"
HUB_FILE = "model.safetensors"  # on the Hugging Face hub
# The network that comes with the package (docs/lite0.md): used where no weights are named, or by
# the file's name without suffix.
SHIPPED = Path(__file__).with_name("lite0.safetensors")
BEST_EMA_WEIGHTS = "best_ema.safetensors"
AVERAGE_WEIGHTS = "average.safetensors"
# The fields that decide the network's shapes.
METADATA = {"network", "source", "fresh"}
NETWORK_FIELDS = ("backbone", "head", "head_channels", "auxiliary_channels", "classes")
# And what the network takes and what becomes of its logits.
PREPROCESSING_FIELDS = ("image_size", "resize_filter", "image_mean", "image_std", "align_corners")
# How files begin that are often taken for weights -> what they are, and the fix.
OTHER_FILES = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself: run git lfs pull in a clone; in the cache of the "
        "Hugging Face hub delete it, and it is downloaded again",
    ),
    (b"<", "a web page: download the file itself"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\x89HDF", "an .h5 file of Keras or TensorFlow: give a .pth or .safetensors of the network"),
    (b"\x08", "an ONNX model: give the checkpoint that it was made from"),
)
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # torch's files, new and old
TAR, TAR_AT = b"ustar", 257


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict with dotted names."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Inverse of `flatten`; parts of a name that are digits become int keys (lists of modules)."""
    tree: dict[Any, Any] = {}
    for name, value in flat.items():
        *path, last = (int(part) if part.isdigit() else part for part in name.split("."))
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def is_backbone(arrays: Iterable[str]) -> bool:
    """Whether arrays of these names are of a backbone, without a head."""
    return all(name.startswith("backbone.") for name in arrays)


def save_weights(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    config: Config,
    origin: str,
    fresh: Iterable[str] = (),
) -> None:
    """Writes arrays by dotted name, with the network and their `origin` as metadata.

    They are float32, or float16 for a file of half the size; read again they are float32.

    `fresh` are prefixes of parameters that the file lacks and that keep their random
    initialisation. A backbone-only file says nothing about heads and fits any of them.
    """
    whole = NETWORK_FIELDS + PREPROCESSING_FIELDS
    fields = NETWORK_FIELDS[:1] if is_backbone(arrays) else whole
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {
        "format": "jaxparse",
        "network": json.dumps(config_json(config, fields)),
        "source": origin,
        "fresh": ",".join(fresh),
    }
    sums = {name: zlib.crc32(array) for name, array in arrays.items()}
    sums["network"] = zlib.crc32(metadata["network"].encode())
    metadata["crc32"] = json.dumps(sums)
    # Not save_file: it leaves a temporary file of its own when killed, and hides the disk's errors.
    content = save(arrays, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def kind_of_file(path: str | Path) -> Literal["safetensors", "torch"] | None:
    """By the file's content, not its suffix. Raises ValueError for what holds no weights."""
    with Path(path).open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{path} is empty; download or copy it again")
    if start[TAR_AT:].startswith(TAR):
        raise ValueError(f"{path} is a tar archive: unpack it first")
    if start[8:9] == b"{":  # behind the length of its header
        return "safetensors"
    for beginning, what in OTHER_FILES:
        if start.startswith(beginning):
            raise ValueError(f"{path} is {what}")
    return "torch" if start.startswith((ZIP, PICKLE)) else None


@contextmanager
def _opened(path: str | Path) -> Iterator[safe_open]:
    """A .safetensors file. Raises ValueError if it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: of types numpy lacks
        why = reason(error)
        raise ValueError(f"{path} is not a safetensors file or is truncated: {why}") from error


def is_ours(path: str | Path) -> bool:
    """Whether jaxparse wrote the file. Raises ValueError for one that is damaged."""
    if kind_of_file(path) != "safetensors":
        return False
    with _opened(path) as file:
        return (file.metadata() or {}).get("format") == "jaxparse"


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name and the metadata. Raises ValueError if the file is damaged."""
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, file.metadata() or {}


def _intact(path: str | Path, arrays: Mapping[str, np.ndarray], sums: str) -> dict[str, np.ndarray]:
    """The arrays as float32. Raises ValueError for one that is not as it was written, or finite."""
    expected = _parsed(path, "crc32", sums)
    for name, array in arrays.items():
        if name in expected and zlib.crc32(np.ascontiguousarray(array)) != expected[name]:
            raise ValueError(
                f"{path} is damaged: {brief(name)} has another checksum; copy it again"
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{path} holds {brief(name)} as {array.dtype}, expected float32")
        if not np.isfinite(array).all():
            raise ValueError(f"{path} holds values in {brief(name)} that are not finite numbers")
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}


def _parsed(path: str | Path, key: str, text: str) -> dict[str, Any]:
    """The dict that a metadata value holds as JSON."""
    try:
        value = json.loads(text)
    except (RecursionError, ValueError):  # ValueError: also of numbers of 4300 digits
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: its metadata {key} is not a JSON object")
    return value


def network_fields(path: str | Path) -> dict[str, Any]:
    """The fields of Config that the weights were saved for. Raises ValueError for others."""
    metadata = read_metadata(path)
    network = _parsed(path, "network", metadata["network"])
    held = config_from(network, path)  # raises for other names and types
    if "backbone" not in network:
        raise ValueError(f"{path} is damaged: its metadata names no backbone")
    found = zlib.crc32(metadata["network"].encode(errors="replace"))
    if _parsed(path, "crc32", metadata.get("crc32", "{}")).get("network", found) != found:
        raise ValueError(f"{path} is damaged: its metadata network has another checksum; copy it")
    fields = {name: getattr(held, name) for name in network}
    return {"classes": CELEBAMASK} | fields if "head" in network else fields  # older files


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata alone. Raises ValueError if jaxparse did not write the file."""
    if not Path(path).is_file():
        raise ValueError(
            f"there is no file, run or folder {path}; train one, give {SHIPPED.stem}, which comes "
            "with jaxparse, or user/repo of the Hugging Face hub, or convert weights with "
            f"{cli.line_for_shell('convert_weights')}"
        )
    metadata: dict[str, str] = {}
    if kind_of_file(path) != "torch":
        with _opened(path) as file:
            metadata = file.metadata() or {}
    if metadata.get("format") != "jaxparse":
        command = cli.line_for_shell("convert_weights", "--checkpoint", path)
        raise ValueError(f"{path} was not written by jaxparse; convert it first: {command}")
    if missing := METADATA - metadata.keys():
        raise ValueError(f"{path} is damaged: its metadata lacks {', '.join(sorted(missing))}")
    return metadata


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays float32 by dotted name and the metadata.

    Raises ValueError if jaxparse did not write the file, or if it is damaged: a checksum differs
    (files of older versions have none), or a value is not a finite number.
    """
    read_metadata(path)  # raises for files of others
    arrays, metadata = read_safetensors(path)
    return _intact(path, arrays, metadata.get("crc32", "{}")), metadata


def read_for(
    path: str | Path, config: Config, any_classes: bool = False
) -> tuple[dict[str, np.ndarray], tuple[str, ...], Classes]:
    """The arrays for the network of `config`, the prefixes of those that the file lacks, and its
    table of classes, which may be another one with `any_classes`.

    Raises ValueError if the file is of another network.
    """
    arrays, metadata = read_weights(path)
    network = network_fields(path)
    network.pop("image_size", None)  # the weights fit any
    classes = network.pop("classes", config.classes)
    expected = {name: getattr(config, name, None) for name in network}
    faults = [f"{n} {network[n]}, not {expected[n]}" for n in network if network[n] != expected[n]]
    if classes.names != config.classes.names and not any_classes:
        faults.append(f"the classes {classes}, not {config.classes}")
    if faults:
        raise ValueError(f"{path} holds {', '.join(faults)}; check --exp")
    return arrays, tuple(filter(None, metadata["fresh"].split(","))), classes


def load_weights(
    path: str | Path, config: Config, params: dict[str, Any], batch_stats: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`params` and `batch_stats` with every array replaced by the file's.

    Raises ValueError if the file is of another network, or lacks a part of it; if names or shapes
    do not match, it lists those of both sides.
    """
    arrays, fresh, _ = read_for(path, config)
    if fresh:
        raise ValueError(
            f"{path} has no weights for {brief(', '.join(fresh))}; train from it first "
            f"(train --init-weights {path})"
        )
    return filled(path, arrays, params, batch_stats)


def filled(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    fresh: tuple[str, ...] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`params` and `batch_stats` with their arrays replaced; those that `arrays` lack are kept if
    their names start with one of the prefixes `fresh`."""
    needed = flatten(params) | flatten(batch_stats)
    kept = {name for name in needed if name not in arrays and name.startswith(fresh)}
    require_match(path, arrays, {k: v for k, v in needed.items() if k not in kept})

    def fill(tree: dict[str, Any]) -> dict[str, Any]:
        return unflatten({name: arrays.get(name, old) for name, old in flatten(tree).items()})

    return fill(params), fill(batch_stats)


def require_match(path: str | Path, arrays: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Raises ValueError listing names and shapes that `arrays` and `needed` do not share."""
    faults = [f"missing {name}" for name in needed if name not in arrays]
    faults += [f"unknown {brief(name)}" for name in arrays if name not in needed]
    faults += [
        f"{name} is {arrays[name].shape}, not {needed[name].shape}"
        for name in needed
        if name in arrays and arrays[name].shape != needed[name].shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ValueError(f"{path} does not fit the network: {shown}")
