"""Checkpoints of other packages -> arrays of this one's names and layout, and back.

The kind of checkpoint and the network are told by names and shapes. Strict: every array of the file
is used or known to be superfluous, every parameter is set, every shape is equal.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparse.classes import (
    CELEBAMASK,
    Classes,
    classes_named,
    load_classes,
    parse_classes,
    shipped_tables,
)
from jaxparse.classes.spelling import spellings
from jaxparse.cli import line_for_shell
from jaxparse.config import Config
from jaxparse.files import brief
from jaxparse.models import split_model, swin
from jaxparse.weights.files import (
    filled,
    flatten,
    network_fields,
    read_for,
    require_match,
)
from jaxparse.weights.names import (
    ACCEPTED,
    BUFFERS,
    HEAD_MARKERS,
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
    arrays: dict[str, np.ndarray]  # by this package's names, classes as in the config
    dropped: list[str]  # the checkpoint's names
    fresh: tuple[str, ...]  # prefixes of this package's names
    config: Config  # of the network
    classes: Classes  # the checkpoint's
    guessed: str = ""  # why those are taken for its classes, in words, if it names none


def convert(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    config: Config | None = None,
    classes: Classes | None = None,
    fresh_classifier: bool = False,
    names: Sequence[str] = (),
    own_classes: bool = False,
) -> Conversion:
    """The arrays of a checkpoint for the network of `config`, or for the one it holds.

    `path` is for messages; `classes` are those of the file, by default those that it `names`, if it
    does, else those that its kind has; with `own_classes` names that are in no known table are a
    table of their own. Networks of the classes of celebamask in another order are brought into its
    order. With `fresh_classifier` what has a place for each class is left out. Raises ValueError
    unless every key is used or known to be superfluous, and every parameter and statistic is set,
    in its shape, or is one of the `fresh` ones.
    """
    naming = recognise(path, state_dict)
    require_constants(path, state_dict, naming)
    arrays, dropped = renamed(path, state_dict, naming)
    classifiers = sorted(name for name in arrays if class_axis(name) is not None)
    theirs = not config or naming.classes != CELEBAMASK.name
    usual = load_classes(naming.classes) if theirs else config.classes
    guessed = ""
    if classes is None and names and classifiers and not fresh_classifier:
        classes = named_table(path, names, usual, own_classes)
    elif classes is None and classifiers and not fresh_classifier:
        guessed = f"as usual for {naming.name}, since its file names none"
    classes = classes or usual
    if config:
        require_network(path, arrays, config)
        if not naming.prefix:  # training adapts a backbone
            require_preprocessing(path, dict(naming.fields), config)
    else:
        other_order = sorted(classes.names) == sorted(CELEBAMASK.names)
        fields = network_of(path, arrays) | dict(naming.fields)
        config = Config(**fields, classes=CELEBAMASK if other_order else classes)
    fresh = naming.fresh
    if fresh_classifier:
        fresh += tuple(classifiers)
        arrays = {name: array for name, array in arrays.items() if name not in fresh}
    else:
        require_classes(path, arrays, classes)
    _, params, batch_stats = split_model(config)
    needed = flatten(params) | flatten(batch_stats)
    require_match(path, arrays, {k: v for k, v in needed.items() if not k.startswith(fresh)})
    if naming.unfolded:
        arrays |= {k: from_unfold_order(v) for k, v in arrays.items() if ".downsample." in k}
    if classifiers and not fresh_classifier:
        arrays = reordered(path, arrays, classes, config.classes)
    return Conversion(naming.name, arrays, dropped, fresh, config, classes, guessed)


def renamed(
    path: str | Path, state_dict: Mapping[str, np.ndarray], naming: Naming
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays by our names, and the keys that are superfluous. Raises ValueError if two arrays
    get one name."""
    dropped = [key for key in state_dict if re.search(rf"{BUFFERS}|{naming.dropped}", key)]
    used = state_dict.keys() - set(dropped)
    pairs = [rename(naming, key, state_dict[key]) for key in state_dict if key in used]
    arrays = dict(pairs)
    if len(arrays) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{path} has more than one array for {name}; save it with one")
    return regroup(arrays, *naming.regrouped), dropped


def named_table(
    path: str | Path, names: Sequence[str], expected: Classes, own_classes: bool
) -> Classes:
    """The table of the classes that a file names: `expected`, one that is known, in any order, or
    its own.

    Raises ValueError for names of no known table unless they are to be its own.
    """
    if tuple(names) == expected.names:
        return expected
    if found := classes_named(names):
        return found
    spelt, label = spellings(names), Path(path).stem
    for table in shipped_tables():
        if sorted(spelt) == sorted(load_classes(table).names):
            return parse_classes({"names": spelt, "from": {table: {}}}, label, path)
    if not own_classes:
        command = line_for_shell("convert_weights", "--checkpoint", path, "--own-classes")
        raise ValueError(
            f"{path} names its {len(names)} classes {brief(', '.join(names))}, which is no known "
            f"table: {command} takes these names; where they are wrong, --classes celebamask or "
            "FILE.json in its place"
        )
    try:
        return parse_classes({"names": list(names)}, label, path)
    except ValueError as error:
        raise ValueError(f"{error}; or give a table, --classes FILE.json") from error


def network_of(path: str | Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of Config that name the network whose arrays, by our names, these are.

    Raises ValueError for sizes of a network that is not among this package's.
    """
    backbone, sizes = backbone_of(arrays)
    fields: dict[str, Any] = {"backbone": backbone}
    whole = any(name.startswith(HEADS) for name in arrays)
    head = head_of(arrays) if whole else ""
    if " " in backbone or " " in head:  # "a Swin of unknown size"
        known = f"known heads: {', '.join(HEAD_MARKERS)}" if " " in head else ACCEPTED
        raise ValueError(f"{path} holds {backbone} ({sizes}){head and f' + {head}'}; {known}")
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


def require_classes(path: str | Path, arrays: Mapping[str, np.ndarray], classes: Classes) -> None:
    """Raises ValueError if the network tells apart another number of classes."""
    axes = ((array, class_axis(name)) for name, array in arrays.items())
    counts = {array.shape[axis] for array, axis in axes if axis is not None}
    if len(counts) == 1 and counts != {len(classes)}:
        command = "convert_weights", "--checkpoint", path
        raise ValueError(
            f"{path} has {counts.pop()} classes, expected the {len(classes)} of {classes}; give "
            f"their table: {line_for_shell(*command, '--classes', 'FILE.json')}; or in its place "
            "--fresh-classifier, which keeps all but the classifier, to train from"
        )


def reordered(
    path: str | Path, arrays: Mapping[str, np.ndarray], source: Classes, target: Classes
) -> dict[str, np.ndarray]:
    """Arrays whose classifiers number the classes as `source` does -> as `target` does.

    Raises ValueError if those are not the same classes.
    """
    if sorted(source.names) != sorted(target.names):
        raise ValueError(
            f"{path} has the classes {source}, not {target}; check --exp and --classes, or give "
            "--fresh-classifier, which keeps all but its classifier, to train from"
        )
    places = [source.index(name) for name in target.names]
    return {
        name: array if (axis := class_axis(name)) is None else array.take(places, axis)
        for name, array in arrays.items()
    }


def start_weights(
    path: str | Path, config: Config, params: dict[str, Any], batch_stats: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`params` and `batch_stats` of a random initialisation with what the file has put in.

    A backbone's file leaves the heads; one of other classes gives the classifiers those of the same
    names; with `config.fresh_classifier` the classifiers are left. Raises ValueError if the file is
    of another network.
    """
    arrays, fresh, classes = read_for(path, config, any_classes=True)
    initial, tables = flatten(params), (config.classes, classes)
    classifiers = {name: axis for name in initial if (axis := class_axis(name)) is not None}
    if config.fresh_classifier:
        arrays = {name: array for name, array in arrays.items() if name not in classifiers}
        fresh += tuple(classifiers)
    elif classes.names != config.classes.names:
        for name in classifiers.keys() & arrays.keys():
            axis = classifiers[name]
            arrays[name] = with_rows(np.array(initial[name]), arrays[name], axis, *tables)
    return filled(path, arrays, params, batch_stats, fresh)


def with_rows(
    initial: np.ndarray, array: np.ndarray, axis: int, target: Classes, source: Classes
) -> np.ndarray:
    """`initial`, of the classes `target`, with what `array` has for classes of the same names."""
    ours, theirs = np.moveaxis(initial, axis, 0), np.moveaxis(array, axis, 0)  # views
    for index, name in enumerate(target.names):
        if name in source.names:
            ours[index] = theirs[source.index(name)]
    return initial


def start_line(path: str | Path, config: Config) -> str | None:
    """Which classes the classifiers take from the file, in words; None if all, or no head."""
    theirs = network_fields(path).get("classes")
    if theirs is None or (theirs.names == config.classes.names and not config.fresh_classifier):
        return None
    names = config.classes.names
    taken = [] if config.fresh_classifier else [name for name in names if name in theirs.names]
    rest = [name for name in names if name not in taken]
    shown = ", ".join(taken) or "none"
    return (
        f"classifiers: from {path} {shown}; from random initialisation {', '.join(rest) or 'none'}"
    )


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
