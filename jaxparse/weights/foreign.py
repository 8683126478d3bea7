"""Weight files of other packages, as they lie around: read, and written for PyTorch.

The weights may be wrapped in dicts beside an optimizer and much else, their names may have prefixes
of wrapping modules, and a moving average may lie beside them. No code in a file is ever run.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparse.files import atomic_path, brief, read_json, unusable
from jaxparse.weights.files import kind_of_file, read_safetensors
from jaxparse.weights.pickles import RefusedError
from jaxparse.weights.torch_files import (
    Tensor,
    described,
    is_module,
    is_torchscript,
    open_torch,
    torchscript_tensors,
)

# Keys under which training programs put a state dict, once or one in the other.
WRAPPERS = ("state_dict", "model_state_dict", "state_dict_backbone", "model", "module", "net")
WRAPPERS += ("network", "networks", "params", "main")
# And its moving average. Not mmengine's ema_state_dict: that holds the plain weights, and its
# state_dict the average.
AVERAGES = ("ema", "model_ema", "params_ema", "state_dict_ema", "main_ema")
# Of modules that wrap the network: of several GPUs, of torch.compile, of a training program.
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "segmentor.")
COUNTS = ("n_averaged",)  # in a state dict of torch.optim.swa_utils.AveragedModel
INDEX = ".index.json"  # of Hugging Face: the file of each array, of several files
# Keys that hold the names of the classes, and of dicts in which those may lie: mmsegmentation 1.x
# has meta.dataset_meta.classes, 0.x meta.CLASSES, transformers id2label.
CLASS_NAMES = ("id2label", "classes", "CLASSES", "class_names")
HOLDERS = ("meta", "dataset_meta", "config", "hyper_parameters")
PLACEHOLDER = r"(LABEL|class)?[ _]?\d+"  # what transformers writes where there are no names


class Weights(NamedTuple):
    """The arrays of a checkpoint, and which of its state dicts they are."""

    arrays: dict[str, np.ndarray]  # float32, names without PREFIXES
    taken: str = ""  # the keys that lead to them, such as networks.main; none for a plain file
    averaged: bool = False  # whether that is a moving average
    left: str = ""  # the keys of the plain weights or of the average, whichever was not taken
    classes: tuple[str, ...] = ()  # their names in order; none if the file names none


def read_checkpoint(path: Path, ema: bool = False) -> Weights:
    """The weights in a .safetensors, a torch file or an index of several.

    Where a file holds a moving average beside the plain weights, those are taken, or with `ema` the
    average. The kind is told by the content, not by the suffix. Raises ValueError for a file that
    is damaged, holds no weights or values that are not finite numbers, or asks to run code.
    """
    weights = _read_parts(path) if path.name.endswith(INDEX) else _read_file(path, ema)
    if ema and not weights.averaged:
        raise ValueError(f"{path} holds no moving average of its weights; leave out --ema")
    for name, array in weights.arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path} holds values in {brief(name)} that are not finite numbers")
    return weights._replace(arrays=without_prefixes(weights.arrays))


def without_prefixes(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without PREFIXES in their names; a prefix that only some have is part of them."""
    names = list(arrays)
    # [""]: where there are no names, all of them would begin with any prefix, without end.
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in names or [""])), ""):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, arrays.values(), strict=True))


def class_names(stated: object) -> tuple[str, ...]:
    """The names of the classes, in order, that a checkpoint or a config.json states, if it does.

    Raises RefusedError for an id2label that does not name each of the classes 0, 1, ...
    """
    if not isinstance(stated, dict):
        return ()
    for key in CLASS_NAMES:
        value = stated.get(key)
        if key == "id2label" and value is not None:
            value = _by_index(value)
        if isinstance(value, list | tuple) and all(map(_is_word, value)):
            placeholders = all(re.fullmatch(PLACEHOLDER, name, re.IGNORECASE) for name in value)
            return () if placeholders else tuple(value)
    return next(filter(None, (class_names(stated.get(key)) for key in HOLDERS)), ())


def _is_word(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _by_index(id2label: object) -> list[str]:
    try:
        named = {int(index): name for index, name in id2label.items()}
        names = [named[index] for index in range(len(id2label))]
    except (AttributeError, KeyError, TypeError, ValueError):
        names = [None]
    if not all(map(_is_word, names)):
        raise RefusedError(
            f"states id2label as {brief(id2label)}, expected a name for each class, by its index "
            "from 0 on: correct it"
        )
    return names


def _read_parts(index: Path) -> Weights:
    """The arrays of all the files that an index lists."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not places or not isinstance(places, dict) or not all(map(_is_name, places.values())):
        raise ValueError(f"{index} is no index of weights: its weight_map lists no files")
    files = {name: index.with_name(name) for name in sorted(set(places.values()))}
    if missing := [name for name, path in files.items() if not path.is_file()]:
        shown = brief(", ".join(missing))
        raise ValueError(f"{index} lists {shown}, which is not there; copy all its files")
    parts = {name: _read_file(path, ema=False).arrays for name, path in files.items()}
    if lacking := [name for name, file in places.items() if name not in parts[file]]:
        first = f"{brief(lacking[0])}, which {index} lists"
        raise ValueError(f"{files[places[lacking[0]]]} lacks {first}; copy both again")
    return Weights({name: parts[file][name] for name, file in places.items()})


def _is_name(value: object) -> bool:
    """Whether this is the name of a file and not of one elsewhere."""
    return isinstance(value, str) and Path(value).name == value and 0 < len(value) < 256


def _read_file(path: Path, ema: bool) -> Weights:
    kind = kind_of_file(path) or path.suffix[1:]
    if kind == "safetensors":
        arrays, _ = read_safetensors(path)
        return Weights({name: array.astype(np.float32) for name, array in arrays.items()})
    with open_torch(path) as root:
        if not is_torchscript(root):
            return _choose(root, ema)._replace(classes=class_names(root))
        if tensors := torchscript_tensors(root):
            return Weights(_arrays(tensors))
    raise ValueError(
        f"{path} is TorchScript without parameters (torch.jit.freeze makes them part of its code); "
        "give the checkpoint that it was made from"
    )


def _choose(root: object, ema: bool) -> Weights:
    """The plain weights or the average in what torch.load would return. Raises RefusedError."""
    found = _state_dicts(root)
    averages = [keys for keys in found if any(key in AVERAGES for key in keys)]
    plain = [keys for keys in found if keys not in averages]
    if not found:
        raise RefusedError(_without_weights(root))
    wanted, others = (averages, plain) if (ema and averages) or not plain else (plain, averages)
    if len(wanted) > 1:
        shown = ", ".join(map(".".join, wanted))
        raise RefusedError(f"holds more than one state dict ({brief(shown)}); save one of them")
    [keys] = wanted
    left = ", ".join(map(".".join, others))
    return Weights(_arrays(found[keys]), ".".join(keys), wanted is averages, left)


def _state_dicts(node: object, keys: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict]:
    """The state dicts in a checkpoint by the keys that lead to them.

    Wrappers come first: beside a state dict may lie other tensors, such as the best accuracy.
    """
    if not isinstance(node, dict):
        return {}
    found: dict[tuple[str, ...], dict] = {}
    for key in (*WRAPPERS, *AVERAGES):
        found |= _state_dicts(node.get(key), (*keys, key))
    if not found and any(_is_tensor(value) for value in node.values()):
        return {keys: node}
    return found


def _is_tensor(value: object) -> bool:
    """Whether this is a tensor, be it one that is refused: sparse, quantized."""
    kinds = r"torch\._utils\._rebuild|torch\.\w+Storage"
    return isinstance(value, Tensor) or re.match(kinds, described(value)) is not None


def _without_weights(root: object) -> str:
    """Why there is no state dict in what torch.load would return."""
    values = (root, *root.values()) if isinstance(root, dict) else (root,)
    if modules := [described(value) for value in values if is_module(value)]:
        return (
            f"holds a whole pickled module ({modules[0]}), whose code is not run: load it where "
            "that code is, and save its state_dict()"
        )
    shown = brief(", ".join(map(str, root))) if isinstance(root, dict) else described(root)
    return f"is not the checkpoint of a network: it holds no state dict, but {shown or 'nothing'}"


def _arrays(state_dict: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """The arrays of a state dict. Raises RefusedError for what are no plain tensors."""
    for key, value in state_dict.items():
        fault = value.fault() if isinstance(value, Tensor) else described(value)
        if fault or not isinstance(key, str):
            raise RefusedError(
                f"holds {brief(key)} as {fault or 'a name'}; expected plain tensors of numbers by "
                "name: save the state dict of the model on the CPU"
            )
    return {key: value.array() for key, value in state_dict.items() if key not in COUNTS}


def write_torch(path: Path, state_dict: Mapping[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a .pth as mmengine does. Raises ValueError if PyTorch is not installed."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"{path} is not written: {unusable('torch', 'torch', error)}") from error
    # Copies: torch refuses read-only arrays, and would keep the strides of transposed ones.
    tensors = {key: torch.from_numpy(np.array(a, order="C")) for key, a in state_dict.items()}
    with atomic_path(path) as temporary:
        torch.save({"meta": meta, "state_dict": tensors}, temporary)
