"""Pixel counts of a predicted mask against its label, in numpy.

Boundary IoU is that of Cheng et al. 2021, arXiv:2103.16562, for all classes at once.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxparse.classes import IGNORE_LABEL

BOUNDARY_SHARE = 0.02  # width of a boundary, of the picture's diagonal; the paper's


class Counts(NamedTuple):
    """Pixels of one picture, or summed over several; pixels with label 255 are left out."""

    confusion: np.ndarray  # int64 [C, C], rows by label, columns by prediction
    boundary: np.ndarray  # int64 [3, C]: boundary in both, in the label, in the prediction


def count(
    label: np.ndarray,
    prediction: np.ndarray,
    classes: int,
    boundary_share: float = BOUNDARY_SHARE,
) -> Counts:
    """Compares two masks uint8 [H, W] of that many classes; the label may also hold 255.

    For boundaries, ignored pixels are one more class in both masks, so that a correct prediction
    has the label's boundaries. Raises ValueError for any other value.
    """
    assert label.dtype == prediction.dtype == np.uint8, (label.dtype, prediction.dtype)
    assert label.shape == prediction.shape and label.ndim == 2, (label.shape, prediction.shape)
    if prediction.max() >= classes:
        raise ValueError(f"prediction holds {prediction.max()}, outside 0..{classes - 1}")
    distance = max(1, round(boundary_share * math.hypot(*label.shape)))
    # Ignored pixels have the class 4 C, so rows hold up to 7 C, and indices 7 C² + 4 C.
    rows, cells = (np.min_scalar_type(n) for n in (7 * classes, 7 * classes**2 + 4 * classes))
    if label.max() >= classes:
        label, prediction = _left_out(label, prediction, classes, rows)
    # The rows of a table [on the prediction's boundary, on the label's, label, prediction].
    row = _is_boundary(label, distance).view(np.uint8)
    row |= _is_boundary(prediction, distance).view(np.uint8) << 1
    row = row.astype(rows, copy=False)
    row *= rows.type(classes)
    row += label
    index = np.multiply(row, classes, dtype=cells)
    index += prediction
    table = _pixels_by_value(index.ravel(), 4 * classes**2)
    table = table.reshape(2, 2, classes, classes)
    boundary = np.diag(table[1, 1]), table[:, 1].sum((0, 2)), table[1].sum((0, 1))
    return Counts(table.sum((0, 1)), np.stack(boundary))


def _left_out(
    label: np.ndarray, prediction: np.ndarray, classes: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Both masks with the ignored pixels set to a value beyond the table of `count`."""
    ignored = label == IGNORE_LABEL
    highest = label[~ignored].max(initial=0)
    if highest >= classes:
        raise ValueError(f"label holds {highest}, outside 0..{classes - 1} and {IGNORE_LABEL}")
    beyond = dtype.type(4 * classes)
    return np.where(ignored, beyond, label), np.where(ignored, beyond, prediction)


def _pixels_by_value(index: np.ndarray, bins: int) -> np.ndarray:
    """int64 [bins] numbers of pixels of unsigned [N]; values beyond the bins are left out.

    Counts runs of equal values, of which rows of masks hold few: that takes a quarter of the time
    of counting all pixels.
    """
    ends = np.append(np.flatnonzero(index[1:] != index[:-1]), index.size - 1)
    lengths = np.diff(ends, prepend=-1)
    return np.bincount(index[ends], lengths, bins)[:bins].astype(np.int64)


def _is_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """bool [H, W]: pixels at most `distance` from another class or from the outside.

    Equal to what the paper's erosion of each class by a 3×3 square, `distance` times, removes: a
    pixel is inside if its window of (2 * distance + 1)² pixels lies in the picture and holds no two
    neighbours that differ. (Half the time of comparing the window's smallest and largest class.)
    """
    boundary = np.ones(mask.shape, bool)
    inside = boundary[distance:-distance, distance:-distance]
    if inside.size:
        across = _any((mask[:, 1:] != mask[:, :-1]).T, 2 * distance).T  # [H, W - 2d]
        down = mask[1:, distance:-distance] != mask[:-1, distance:-distance]  # [H - 1, W - 2d]
        inside[:] = _any(across[1:] | across[:-1] | down, 2 * distance)
    return boundary


def _any(values: np.ndarray, size: int) -> np.ndarray:
    """Whether any of `size` neighbouring rows is true: bool [N, ...] -> [N - size + 1, ...].

    Windows of 1 row give those of 2, these give those of 4, and so on.
    """
    reach = 1
    while reach < size:
        step = min(reach, size - reach)
        values = values[:-step] | values[step:]
        reach += step
    return values


def total(counts: Iterable[Counts]) -> Counts:
    """The sum over at least one picture."""
    confusions, boundaries = zip(*counts, strict=True)
    return Counts(sum(confusions), sum(boundaries))
