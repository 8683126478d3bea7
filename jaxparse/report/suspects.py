"""Flags masks that a trained network contradicts, as candidates for label errors.

Disagreements are weighted by the network's confidence, relative to its usual error on that class.
After confident learning (Northcutt et al. 2021, arXiv:1911.00068), but the unit is a class of a
picture: counted in pixels, uncertain edges of the hair would outweigh a missing nose.
"""

import numpy as np

from jaxparse.classes import IGNORE_LABEL, Classes
from jaxparse.scoring.scores import hits_and_sums, join_left_right

# Shares of a picture's pixels: a part of the face must have SEEN to vote on mirroring, a class must
# have COUNTED to be scored.
SEEN, COUNTED = 1e-4, 1e-3


def weigh(
    label: np.ndarray, prediction: np.ndarray, confidence: np.ndarray, classes: int
) -> np.ndarray:
    """Confusion matrix float64 [C, C] with errors weighted by the network's confidence.

    Masks uint8 [H, W], confidence float32 [H, W] in 0..1; pixels with label 255 are left out.
    """
    counted = label != IGNORE_LABEL
    label, prediction = label[counted], prediction[counted]
    index = label.astype(np.intp) * classes + prediction
    weights = np.where(label == prediction, 1, confidence[counted])
    return np.bincount(index, weights, classes**2).reshape(classes, classes)


def side_votes(weights: np.ndarray, classes: Classes) -> np.ndarray:
    """How far left and right of each of P pairs are exchanged: [N, C, C] -> [N, P], 0..1.

    Of the pixels that mask and network both give to that part, the share whose side differs; NaN
    where too few pixels are seen.
    """
    left, right = np.array(classes.pairs, int).reshape(-1, 2).T
    same = weights[:, left, left] + weights[:, right, right]  # [N, P]
    crossed = weights[:, left, right] + weights[:, right, left]
    both = same + crossed
    seen = both > SEEN * weights.sum((1, 2))[:, None]
    return np.where(seen, crossed / np.maximum(both, 1e-9), np.nan)


def surely_mirrored(weights: np.ndarray, classes: Classes) -> np.ndarray:
    """Masks to exchange without a look at them: weights [N, C, C] -> bool [N].

    At least two parts of the face have most pixels on the other side, and eyes and brows do where
    they are seen. An ear can be the second, but does not overrule them: of a profile's one ear the
    network itself may be wrong.
    """
    votes = side_votes(weights, classes)
    crossed, contradicts = votes > 0.5, votes <= 0.5  # both False for NaN
    overrules = np.array(
        [not classes.part(left).endswith("ear") for left, _ in classes.pairs], bool
    )
    return (crossed.sum(1) >= 2) & ~contradicts[:, overrules].any(1)


def mirrored_shares(weights: np.ndarray, classes: Classes) -> np.ndarray:
    """How far left and right are exchanged in each mask, 0..1: weights [N, C, C] -> [N].

    The mean of the `side_votes`. One vote each, because ears have many times the pixels of eyes and
    are easily confused in profile. 0 where no part is visible.
    """
    votes = side_votes(weights, classes)
    return np.nansum(votes, 1) / np.maximum((~np.isnan(votes)).sum(1), 1)


def mislabelled_scores(confusions: np.ndarray, weights: np.ndarray, classes: Classes) -> np.ndarray:
    """How suspicious each mask is, left and right joined: two [N, C, C] -> [N], ≥ 0.

    A class's agreement in a picture is the share of the union of mask and prediction without
    errors, weighted as in `weigh`; with all weights 1 it is IoU. The score is the sum over classes
    of (agreement over all pictures - agreement in this one)², where positive, times the root of the
    class's share of the picture. The square ranks one very wrong class above many slightly wrong
    ones; the root keeps small parts from being drowned.
    """
    confusions, weights = (join_left_right(x, classes) for x in (confusions, weights))
    agreement, unions = _agreement(confusions, weights)
    usual, _ = _agreement(confusions.sum(0), weights.sum(0))
    shares = unions / np.maximum(confusions.sum((1, 2)), 1)[:, None]
    shortfalls = np.maximum(usual - agreement, 0)
    return np.where(shares > COUNTED, shortfalls**2 * np.sqrt(shares), 0).sum(1)


def _agreement(confusions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the unions without error, and the unions in pixels: [..., C, C] -> [..., C]."""
    hits, sums = hits_and_sums(confusions)
    right, both = hits_and_sums(weights)
    unions = sums - hits
    return 1 - (both - 2 * right) / np.maximum(unions, 1), unions
