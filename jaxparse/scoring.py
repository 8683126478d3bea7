"""Masks against masks, in numpy: pixel counts of a picture, and scores from their sum.

IoU, accuracy, their means and names are mmsegmentation's (`IoUMetric`), NaN where a class is
absent; F1 is its Dice. Boundary IoU is that of Cheng et al. 2021, arXiv:2103.16562, for all classes
at once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxparse.classes import IGNORE_LABEL, LEFT_RIGHT_PAIRS, NAMES, NUM_CLASSES

BOUNDARY_SHARE = 0.02  # width of a boundary, of the picture's diagonal; the paper's
LIKELIER_BY = 0.2  # mIoU that another label order must gain before it is suspected
BOOTSTRAP_BLOCK = 100  # samples at once: bounds memory to a few times that of the counts
# The classes that are left when left and right are joined, under the left one's index.
_RIGHT_TO_LEFT = {right: left for left, right in LEFT_RIGHT_PAIRS}
JOINED = [index for index in range(NUM_CLASSES) if index not in _RIGHT_TO_LEFT]


class Counts(NamedTuple):
    """Pixels of one picture, or of several summed. Those with label 255 are left out of all."""

    confusion: np.ndarray  # int64 [19, 19], rows by label, columns by prediction
    boundary: np.ndarray  # int64 [3, 19]: boundary in both, in the label, in the prediction


def count(
    label: np.ndarray, prediction: np.ndarray, boundary_share: float = BOUNDARY_SHARE
) -> Counts:
    """Compares two masks uint8 [H, W]: classes 0..18, the label also 255.

    Ignored pixels count as one more class of both masks where boundaries are sought, so that a
    right prediction has the label's boundaries. Raises ValueError on any other value.
    """
    assert label.dtype == prediction.dtype == np.uint8, (label.dtype, prediction.dtype)
    assert label.shape == prediction.shape and label.ndim == 2, (label.shape, prediction.shape)
    if prediction.max() >= NUM_CLASSES:
        raise ValueError(f"prediction holds {prediction.max()}, outside 0..{NUM_CLASSES - 1}")
    distance = max(1, round(boundary_share * math.hypot(*label.shape)))
    if label.max() >= NUM_CLASSES:
        label, prediction = _left_out(label, prediction)
    # The rows of a table [on the prediction's boundary, on the label's, label, prediction].
    row = _is_boundary(label, distance).view(np.uint8)
    row |= _is_boundary(prediction, distance).view(np.uint8) << 1
    row *= NUM_CLASSES
    row += label
    index = np.multiply(row, NUM_CLASSES, dtype=np.uint16)
    index += prediction
    table = _pixels_by_value(index.ravel(), 4 * NUM_CLASSES**2)
    table = table.reshape(2, 2, NUM_CLASSES, NUM_CLASSES)
    boundary = np.diag(table[1, 1]), table[:, 1].sum((0, 2)), table[1].sum((0, 1))
    return Counts(table.sum((0, 1)), np.stack(boundary))


def _left_out(label: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks with a value in place of the label's 255 that lies beyond the table of `count`."""
    ignored = label == IGNORE_LABEL
    highest = label[~ignored].max(initial=0)
    if highest >= NUM_CLASSES:
        raise ValueError(f"label holds {highest}, outside 0..{NUM_CLASSES - 1} and {IGNORE_LABEL}")
    beyond = np.uint8(4 * NUM_CLASSES)
    return np.where(ignored, beyond, label), np.where(ignored, beyond, prediction)


def _pixels_by_value(index: np.ndarray, bins: int) -> np.ndarray:
    """int64 [bins] numbers of pixels of uint16 [N]; values beyond the bins are left out.

    Counts runs of equal values: rows of masks hold few, and bincount of all pixels takes four times
    as long.
    """
    ends = np.append(np.flatnonzero(index[1:] != index[:-1]), index.size - 1)
    lengths = np.diff(ends, prepend=-1)
    return np.bincount(index[ends], lengths, bins)[:bins].astype(np.int64)


def _is_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """bool [H, W]: pixels at most `distance` from another class, or from outside of the picture.

    Equal to the paper's erosion of each class by a 3×3 square, `distance` times: a pixel remains if
    its window of (2 * distance + 1)² pixels lies in the picture and holds no two neighbours that
    differ. That takes half the time of comparing the window's smallest and largest class.
    """
    boundary = np.ones(mask.shape, bool)
    inside = boundary[distance:-distance, distance:-distance]
    if inside.size:
        across = _any((mask[:, 1:] != mask[:, :-1]).T, 2 * distance).T  # [H, W - 2d]
        down = mask[1:, distance:-distance] != mask[:-1, distance:-distance]  # [H - 1, W - 2d]
        inside[:] = _any(across[1:] | across[:-1] | down, 2 * distance)
    return boundary


def _any(values: np.ndarray, size: int) -> np.ndarray:
    """Whether any of `size` neighbouring rows holds: bool [N, ...] -> [N - size + 1, ...].

    Windows of 1 row make those of 2, these those of 4, and so on.
    """
    reach = 1
    while reach < size:
        step = min(reach, size - reach)
        values = values[:-step] | values[step:]
        reach += step
    return values


def total(counts: Iterable[Counts]) -> Counts:
    """The sum over pictures, of which there is at least one."""
    confusions, boundaries = zip(*counts, strict=True)
    return Counts(sum(confusions), sum(boundaries))


@dataclass(frozen=True)
class Scores:
    """Shares in 0..1; per class [C], NaN (left out of means) for classes that do not occur.

    A class without labelled pixels has no accuracy; if it was predicted it has an IoU and an F1, 0.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    f1: np.ndarray
    pixel_accuracy: float
    boundary_iou: np.ndarray | None = None
    names: Sequence[str] = NAMES

    @property
    def mean_iou(self) -> float:
        return float(_mean(self.iou))

    @property
    def mean_accuracy(self) -> float:
        return float(_mean(self.accuracy))

    def means(self) -> dict[str, float]:
        """The three figures of a network, by the names mmsegmentation gives them."""
        return {"aAcc": self.pixel_accuracy, "mIoU": self.mean_iou, "mAcc": self.mean_accuracy}

    def summary(self) -> dict[str, float]:
        """`means`, mean F1 with and without background, and the mean boundary IoU if known."""
        figures = self.means() | {
            "mF1": float(_mean(self.f1)),
            "mF1_without_background": float(_mean(self.f1[1:])),
        }
        if self.boundary_iou is not None:
            figures["mBoundaryIoU"] = float(_mean(self.boundary_iou))
        return figures

    def per_class(self) -> dict[str, np.ndarray]:
        """Title -> [C], as the tables show it."""
        columns = {"IoU": self.iou, "Acc": self.accuracy, "F1": self.f1}
        return columns | ({} if self.boundary_iou is None else {"BoundaryIoU": self.boundary_iou})


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(part, whole)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN if there is nothing else."""
    return _share(np.nansum(values, -1), (~np.isnan(values)).sum(-1))


def hits_and_sums(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in both, and in label plus those in prediction, per class: [..., C, C] -> [..., C]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return hits, confusion.sum(-1) + confusion.sum(-2)


def ious(confusion: np.ndarray) -> np.ndarray:
    """[..., C] of confusion matrices [..., C, C], NaN for classes that do not occur."""
    hits, sums = hits_and_sums(confusion)
    return _share(hits, sums - hits)


def mean_ious(confusion: np.ndarray) -> np.ndarray:
    """[...] mIoU of confusion matrices [..., C, C], NaN if nothing was labelled."""
    return _mean(ious(confusion))


def scores(
    confusion: np.ndarray, boundary: np.ndarray | None = None, names: Sequence[str] = NAMES
) -> Scores:
    """Scores from an integer confusion matrix [C, C], and the [3, C] of `Counts` for boundary IoU.

    F1 is 2 · hits / (labelled + predicted): 0, and not NaN as mmsegmentation's Fscore, for a class
    that was labelled and never found, so that missing it does not raise the mean.
    """
    hits, sums = hits_and_sums(confusion)
    both, *sides = (None, 0, 0) if boundary is None else boundary
    return Scores(
        iou=ious(confusion),
        accuracy=_share(hits, confusion.sum(1)),
        f1=_share(2 * hits, sums),
        pixel_accuracy=float(_share(hits.sum(), confusion.sum())),
        boundary_iou=None if boundary is None else _share(both, sum(sides) - both),
        names=names,
    )


def join_left_right(confusion: np.ndarray) -> np.ndarray:
    """[..., 19, 19] -> [..., 16, 16]: left and right eye, brow and ear are one class each."""
    places = [JOINED.index(_RIGHT_TO_LEFT.get(index, index)) for index in range(NUM_CLASSES)]
    join = np.eye(len(JOINED), dtype=np.int64)[places]  # [19, 16]
    return join.T @ confusion @ join


def joined_scores(confusion: np.ndarray) -> Scores:
    """Scores of the 16 classes left when left and right eye, brow and ear are one class each."""
    names = [NAMES[index].removeprefix("left_") for index in JOINED]
    return scores(join_left_right(confusion), names=names)


def picture_f1(confusions: np.ndarray) -> np.ndarray:
    """[N] mean F1 of each picture over the classes of its label, from int [N, 19, 19].

    Its mean is what the course's challenge of 2025 on CodaBench ranks by (background counts).
    """
    hits, sums = hits_and_sums(confusions)
    return _mean(np.where(confusions.sum(-1) > 0, _share(2 * hits, sums), np.nan))


def bootstrap_interval(
    confusions: np.ndarray, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval (low, high) of mIoU if other such pictures had been drawn: int [N, 19, 19].

    Percentiles over `samples` draws of N pictures with replacement. A class that a draw has not is
    left out of its mean.
    """
    rng, number = np.random.default_rng(seed), len(confusions)
    cells = confusions.reshape(number, -1).astype(np.float64)  # BLAS multiplies no integers
    means = []
    for start in range(0, samples, BOOTSTRAP_BLOCK):
        size = min(BOOTSTRAP_BLOCK, samples - start)
        times = rng.multinomial(number, np.full(number, 1 / number), size)  # [size, N]
        means.append(mean_ious((times @ cells).reshape(size, *confusions.shape[1:])))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def likelier_order(confusion: np.ndarray, orders: Mapping[str, Sequence[int]]) -> str | None:
    """The order in which the labels give a mIoU more than 0.2 higher than as given, if any.

    `orders`: name -> for each value in masks of that order, its class here. For the order of the
    predictions give the confusion matrix transposed.
    """
    gains = {}
    for name, classes in orders.items():
        renamed = np.zeros_like(confusion)
        renamed[list(classes)] = confusion
        gains[name] = mean_ious(renamed) - mean_ious(confusion)
    best = max(gains, key=gains.__getitem__, default=None)
    return best if best is not None and gains[best] > LIKELIER_BY else None
