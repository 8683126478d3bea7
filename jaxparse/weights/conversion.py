"""Checkpoints of other packages -> arrays of this one's names and layout, and back.

The kind of checkpoint and the network are told by names and shapes. Strict: every array of the file
is used or known to be superfluous, every parameter is set, every shape is equal.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparse.classes import LABEL_ORDERS, NUM_CLASSES
from jaxparse.config import Config
from jaxparse.models import split_model, swin
from jaxparse.weights.files import flatten, require_match
from jaxparse.weights.names import (
    ACCEPTED,
    BUFFERS,
    backbone_of,
    head_of,
    mmseg_naming,
    recognise,
    require_network,
)
from jaxparse.weights.naming import (
    HEADS,
    Naming,
    from_unfold_order,
    regroup,
    rename,
    rename_back,
    to_unfold_order,
)

# Arrays with a place for each class -> the axis.
CLASS_AXES = {"conv_seg.kernel": -1, "conv_seg.bias": -1, "class_tokens": 0}


class Conversion(NamedTuple):
    """What became of a checkpoint."""

    naming: str
    arrays: dict[str, np.ndarray]  # by this package's names, classes in the official order
    dropped: list[str]  # the checkpoint's names
    fresh: tuple[str, ...]  # prefixes of this package's names
    config: Config  # of the network
    label_order: str  # of the checkpoint's classes


def convert(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    config: Config | None = None,
    label_order: str | None = None,
    fresh_classifier: bool = False,
) -> Conversion:
    """The arrays of a checkpoint for the network of `config`, or for the one it holds.

    `path` is for messages; `label_order` is that of the classes in the file, by default the one
    that its kind has. With `fresh_classifier` what has a place for each class is left out. Raises
    ValueError unless every key is used or known to be superfluous, and every parameter and
    statistic is set, in its shape, or is one of the `fresh` ones.
    """
    naming = recognise(path, state_dict)
    require_constants(path, state_dict, naming)
    dropped = [key for key in state_dict if re.search(rf"{BUFFERS}|{naming.dropped}", key)]
    used = state_dict.keys() - set(dropped)
    renamed = [rename(naming, key, state_dict[key]) for key in state_dict if key in used]
    arrays = dict(renamed)
    if len(arrays) < len(renamed):
        [(name, _)] = Counter(name for name, _ in renamed).most_common(1)
        raise ValueError(f"{path} has more than one array for {name}; save it with one")
    arrays = regroup(arrays, *naming.regrouped)
    if config:
        require_network(path, arrays, config)
        if not naming.prefix:  # training adapts a backbone
            require_preprocessing(path, dict(naming.fields), config)
    else:
        config = Config(**network_of(path, arrays), **dict(naming.fields))
    fresh = naming.fresh
    if fresh_classifier:
        fresh += tuple(sorted(name for name in arrays if class_axis(name) is not None))
        arrays = {name: array for name, array in arrays.items() if name not in fresh}
    else:
        require_classes(path, arrays)
    _, params, batch_stats = split_model(config)
    needed = flatten(params) | flatten(batch_stats)
    require_match(path, arrays, {k: v for k, v in needed.items() if not k.startswith(fresh)})
    if naming.unfolded:
        arrays |= {k: from_unfold_order(v) for k, v in arrays.items() if ".downsample." in k}
    order = label_order or naming.label_order
    return Conversion(naming.name, to_official_order(arrays, order), dropped, fresh, config, order)


def network_of(path: str | Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of Config that name the network whose arrays, by our names, these are.

    Raises ValueError for sizes of a network that is not among this package's.
    """
    backbone, sizes = backbone_of(arrays)
    fields: dict[str, Any] = {"backbone": backbone}
    whole = any(name.startswith(HEADS) for name in arrays)
    head = head_of(arrays) if whole else ""
    if " " in backbone or " " in head:  # "a Swin of unknown size"
        raise ValueError(f"{path} holds {backbone} ({sizes}){head and f' + {head}'}; {ACCEPTED}")
    if whole:
        fields |= {"head": head, "auxiliary_channels": 0}
        for name, part in (("head_channels", "decode"), ("auxiliary_channels", "auxiliary")):
            classifier = arrays.get(f"{part}_head.conv_seg.kernel")  # BiSeNet has three others
            if classifier is not None:
                fields[name] = int(classifier.shape[-2])
        if "decode_head.class_tokens" in arrays:
            fields["head_channels"] = int(arrays["decode_head.class_tokens"].shape[-1])
    return fields


def require_constants(
    path: str | Path, state_dict: Mapping[str, np.ndarray], naming: Naming
) -> None:
    """Raises ValueError if the file holds other numbers for what `naming` takes as settings."""
    for key, expected in naming.constants:
        found = np.ravel(state_dict.get(key, expected))
        if found.shape != np.shape(expected) or not np.allclose(found, expected, rtol=1e-5):
            raise ValueError(
                f"{path} holds {found.tolist()} in {key}, expected {list(expected)}: the network "
                "takes other pictures than this package would give it; convert another file"
            )


def require_preprocessing(path: str | Path, fields: Mapping[str, Any], config: Config) -> None:
    """Raises ValueError unless `config` prepares pictures as these fields of a Config say."""
    others = {name: getattr(config, name) for name in fields}
    faults = [f"{n} {fields[n]}, not {others[n]}" for n in fields if fields[n] != others[n]]
    if faults:
        raise ValueError(f"{path} needs {', '.join(faults)}; leave out --exp")


def class_axis(name: str) -> int | None:
    """The axis of the classes in the array of that name; None if it has none."""
    return next((axis for ending, axis in CLASS_AXES.items() if name.endswith(ending)), None)


def require_classes(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if the network tells apart another number of classes."""
    axes = ((array, class_axis(name)) for name, array in arrays.items())
    counts = {array.shape[axis] for array, axis in axes if axis is not None}
    if len(counts) == 1 and counts != {NUM_CLASSES}:
        raise ValueError(
            f"{path} has {counts.pop()} classes, expected {NUM_CLASSES}; --fresh-classifier keeps "
            "all but its classifier, to train from"
        )


def to_official_order(arrays: Mapping[str, np.ndarray], order: str) -> dict[str, np.ndarray]:
    """Arrays whose classifiers number the classes by `order` -> by the official order."""
    places = np.argsort(LABEL_ORDERS[order])
    return {
        name: array if (axis := class_axis(name)) is None else array.take(places, axis)
        for name, array in arrays.items()
    }


def to_mmseg(arrays: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """Arrays of the whole network of `config` -> mmsegmentation's state dict, buffers included."""
    naming = mmseg_naming(config)
    if naming.unfolded:
        merging = {k: to_unfold_order(v) for k, v in arrays.items() if ".downsample." in k}
        arrays = {**arrays, **merging}
    arrays = regroup(arrays, *naming.regrouped[::-1])
    state_dict = dict(rename_back(naming, name, array) for name, array in arrays.items())
    for key in list(state_dict):
        if key.endswith("running_var"):
            state_dict[key.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
        elif key.endswith("relative_position_bias_table"):
            state_dict[key.replace("bias_table", "index")] = swin.relative_position_index()
    return state_dict
