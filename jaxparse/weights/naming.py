"""What a kind of checkpoint calls our parameters, and how its arrays become ours.

A table of strings to replace, in order, turns their names into ours; in reverse order, ours into
theirs. Kernels are transposed to HWIO and [in, out]. Parameters that others keep apart or together,
such as queries, keys and values, are joined and cut along their outputs.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxparse.classes import CELEBAMASK

Renames = tuple[tuple[str, str], ...]  # theirs, ours
Parts = tuple[tuple[str, int], ...]  # parts of names, and their shares of the outputs
# Parts that are joined, those that they are cut into, and the axis, by default the last.
Regrouping = tuple[Parts, Parts] | tuple[Parts, Parts, int]
HEADS = ("decode_head.", "auxiliary_head.")
IMAGENET_CLASSIFIER = r"^(norm|head|(fpn\.backbone\.)?fc|classifier)\."
STATISTICS: Renames = ((".running_mean", ".mean"), (".running_var", ".var"))
PLAIN_STEM: Renames = (
    ("backbone.conv1.", "backbone.stem.0.conv."),
    ("backbone.bn1.", "backbone.stem.0.bn."),
)
MMSEG_HEADS: Renames = (
    *((f"psp_modules.{i}.1.", f"psp_modules.{i}.") for i in range(4)),
    ("image_pool.1.", "image_pool."),
    *STATISTICS,
)


class Naming(NamedTuple):
    """A kind of checkpoint: a segmentor, or an ImageNet backbone, whose names need a prefix."""

    name: str
    markers: tuple[str, ...]  # keys found in every file of this kind and in no other kind
    renames: Renames
    fresh: tuple[str, ...] = ()  # prefixes of parameters that such files lack
    prefix: str = ""  # of our names
    unfolded: bool = False  # patch merging orders its four neighbours as torch's unfold does
    classes: str = CELEBAMASK.name  # the table that such networks usually have
    fields: tuple[tuple[str, Any], ...] = ()  # of Config: the preprocessing, if not the default
    regrouped: Regrouping = ((), ())  # theirs into ours, by names after `renames`
    dropped: str = IMAGENET_CLASSIFIER  # a regular expression of keys that are superfluous
    # Keys among these that must hold these numbers: what is a setting here.
    constants: tuple[tuple[str, tuple[float, ...]], ...] = ()
    pointwise: tuple[str, ...] = ()  # in our names of linear layers that are 1×1 convolutions there


def rename(naming: Naming, key: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Name and array in this package's layout, not yet regrouped nor patch merging in our order."""
    name = naming.prefix + key
    for theirs, ours in naming.renames:
        name = name.replace(theirs, ours)
    if name.endswith(".weight"):
        name = name.removesuffix("weight") + ("kernel" if array.ndim > 1 else "scale")
    if name.endswith(".kernel"):
        # OIHW -> HWIO, [out, in] -> [in, out]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        if array.ndim == 4 and any(part in name for part in naming.pointwise):
            array = array[0, 0]
    return name, array


def rename_back(naming: Naming, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Inverse of `rename`."""
    if name.endswith(".kernel"):
        if any(part in name for part in naming.pointwise):
            array = array[None, None]
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    name = re.sub(r"\.(kernel|scale)$", ".weight", name)
    for theirs, ours in reversed(naming.renames):
        name = name.replace(ours, theirs)
    return name.removeprefix(naming.prefix), array


def regroup(
    arrays: Mapping[str, np.ndarray], source: Parts, target: Parts, axis: int = -1
) -> dict[str, Any]:
    """The arrays, by our names, with those of `source` joined along an axis and cut again.

    The last axis is that of the outputs; each part of a name in `target` gets its share. Arrays
    that lack one of their group stay as they are: whoever compares names will list them.
    """
    arrays = dict(arrays)
    first = source[0][0] if source else None
    for name in [name for name in arrays if first and first in name]:
        names = [name.replace(first, part) for part, _ in source]
        if not all(name in arrays for name in names):
            continue
        joined = np.concatenate([arrays.pop(name) for name in names], axis)
        shares = np.cumsum([share for _, share in target])
        cuts = shares[:-1] * joined.shape[axis] // shares[-1]
        pieces = np.split(joined, cuts, axis)
        arrays |= {name.replace(first, p): x for (p, _), x in zip(target, pieces, strict=True)}
    return arrays


def from_unfold_order(array: np.ndarray) -> np.ndarray:
    """[4C, ...] indexed channel, row, column as torch's unfold does -> column, row, channel."""
    neighbours = array.reshape(-1, 2, 2, *array.shape[1:])  # C row column
    return neighbours.swapaxes(0, 2).reshape(array.shape)


def to_unfold_order(array: np.ndarray) -> np.ndarray:
    """Inverse of `from_unfold_order`."""
    neighbours = array.reshape(2, 2, -1, *array.shape[1:])  # column row C
    return neighbours.swapaxes(0, 2).reshape(array.shape)
