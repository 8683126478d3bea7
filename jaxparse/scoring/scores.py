"""Scores from pixel counts: IoU, accuracy, F1, boundary IoU, their means and intervals.

IoU, accuracy, their means and names are mmsegmentation's (`IoUMetric`), NaN where a class is
absent; F1 is its Dice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxparse.classes import CELEBAMASK, IGNORE_LABEL, Classes
from jaxparse.classes.spelling import background

LIKELIER_BY = 0.2  # mIoU that another label order must gain before it is suspected
BOOTSTRAP_BLOCK = 100  # samples at once: bounds memory to a few times that of the counts


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(part, whole)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN if all are."""
    return _share(np.nansum(values, -1), (~np.isnan(values)).sum(-1))


def hits_and_sums(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels right, and those labelled plus those predicted, per class: [..., C, C] -> [..., C]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return hits, confusion.sum(-1) + confusion.sum(-2)


def ious(confusion: np.ndarray) -> np.ndarray:
    """[..., C] of confusion matrices [..., C, C], NaN for classes that do not occur."""
    hits, sums = hits_and_sums(confusion)
    return _share(hits, sums - hits)


def mean_ious(confusion: np.ndarray) -> np.ndarray:
    """[...] mIoU of confusion matrices [..., C, C], NaN if nothing was labelled."""
    return _mean(ious(confusion))


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
    names: Sequence[str] = CELEBAMASK.names

    @classmethod
    def of(
        cls,
        confusion: np.ndarray,
        boundary: np.ndarray | None = None,
        names: Sequence[str] = CELEBAMASK.names,
    ) -> "Scores":
        """From an integer confusion matrix [C, C], and for boundary IoU the [3, C] of `Counts`.

        F1 is 2 · hits / (labelled + predicted): 0, and not NaN as mmsegmentation's Fscore, for a
        class that was labelled and never found, so that missing it does not raise the mean.
        """
        hits, sums = hits_and_sums(confusion)
        both, *sides = (None, 0, 0) if boundary is None else boundary
        return cls(
            iou=ious(confusion),
            accuracy=_share(hits, confusion.sum(1)),
            f1=_share(2 * hits, sums),
            pixel_accuracy=float(_share(hits.sum(), confusion.sum())),
            boundary_iou=None if boundary is None else _share(both, sum(sides) - both),
            names=names,
        )

    @property
    def mean_iou(self) -> float:
        return float(_mean(self.iou))

    @property
    def mean_accuracy(self) -> float:
        return float(_mean(self.accuracy))

    def means(self) -> dict[str, float]:
        """The three usual figures, by mmsegmentation's names."""
        return {"aAcc": self.pixel_accuracy, "mIoU": self.mean_iou, "mAcc": self.mean_accuracy}

    def summary(self) -> dict[str, float]:
        """`means`, mean F1 with and without the class that is called background, and the mean
        boundary IoU if known.
        """
        parts = np.arange(len(self.names)) != background(self.names, IGNORE_LABEL)
        figures = self.means() | {
            "mF1": float(_mean(self.f1)),
            "mF1_without_background": float(_mean(self.f1[parts])),
        }
        if self.boundary_iou is not None:
            figures["mBoundaryIoU"] = float(_mean(self.boundary_iou))
        return figures

    def per_class(self) -> dict[str, np.ndarray]:
        """Title of the column -> [C]."""
        columns = {"IoU": self.iou, "Acc": self.accuracy, "F1": self.f1}
        return columns | ({} if self.boundary_iou is None else {"BoundaryIoU": self.boundary_iou})


def joined(classes: Classes) -> list[int]:
    """The classes that remain, [J], when left and right are joined: of each pair the left one."""
    right = {pair[1] for pair in classes.pairs}
    return [index for index in range(len(classes)) if index not in right]


def join_left_right(confusion: np.ndarray, classes: Classes) -> np.ndarray:
    """[..., C, C] -> [..., J, J]: left and right eye, brow and so on are joined."""
    kept, left_of = joined(classes), {right: left for left, right in classes.pairs}
    places = [kept.index(left_of.get(index, index)) for index in range(len(classes))]
    join = np.eye(len(kept), dtype=np.int64)[places]  # [C, J]
    return join.T @ confusion @ join


def joined_scores(confusion: np.ndarray, classes: Classes) -> Scores:
    """Scores of the classes of `join_left_right`."""
    left = {pair[0] for pair in classes.pairs}
    names = [
        classes.part(index) if index in left else classes.names[index] for index in joined(classes)
    ]
    return Scores.of(join_left_right(confusion, classes), names=names)


def picture_f1(confusions: np.ndarray) -> np.ndarray:
    """[N] mean F1 of each picture over the classes of its label, from int [N, C, C].

    Its mean is what the course's challenge of 2025 on CodaBench ranks by (background counts).
    """
    hits, sums = hits_and_sums(confusions)
    return _mean(np.where(confusions.sum(-1) > 0, _share(2 * hits, sums), np.nan))


def bootstrap_interval(
    confusions: np.ndarray, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap 95 % interval (low, high) of mIoU over pictures, from int [N, C, C].

    Percentiles over `samples` draws of N pictures with replacement. Classes absent from a draw are
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
    """The order that, assumed for the labels, raises mIoU by more than 0.2, if any.

    `orders`: name -> for each value in masks of that order, its class here. For the order of the
    predictions give the transposed confusion matrix.
    """
    gains = {}
    for name, classes in orders.items():
        renamed = np.zeros_like(confusion)
        renamed[list(classes)] = confusion
        gains[name] = mean_ious(renamed) - mean_ious(confusion)
    best = max(gains, key=gains.__getitem__, default=None)
    return best if best is not None and gains[best] > LIKELIER_BY else None


def sides_are_exchanged(confusion: np.ndarray, classes: Classes) -> bool:
    """Whether most pixels that both masks give to a pair of classes differ in their side.

    Of one pair alone that cannot be told.
    """
    if not classes.pairs:
        return False
    left, right = np.transpose(classes.pairs)
    same = confusion[left, left] + confusion[right, right]  # [P]
    crossed = confusion[left, right] + confusion[right, left]
    return bool((crossed > same).sum() >= 2 and crossed.sum() > same.sum())
