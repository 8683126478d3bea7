"""Flags masks that a trained network contradicts, as candidates for label errors.

Disagreements are weighted by the network's confidence, relative to its usual error on that class.
After confident learning (Northcutt et al. 2021, arXiv:1911.00068), but the unit is a class of a
picture: counted in pixels, the fringe of the hair would outweigh a nose that was not marked.
"""

import numpy as np

from jaxparse.classes import IGNORE_LABEL, LEFT_RIGHT_PAIRS, NUM_CLASSES
from jaxparse.scoring.scores import hits_and_sums, join_left_right

# Of a picture's pixels: what a part of the face needs to vote on mirroring, and a class to count.
SEEN, COUNTED = 1e-4, 1e-3


def weigh(label: np.ndarray, prediction: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """A confusion matrix float64 [19, 19] in which errors count as the network is confident there.

    Masks uint8 [H, W], confidence float32 [H, W] in 0..1; pixels with label 255 are left out.
    """
    counted = label != IGNORE_LABEL
    label, prediction = label[counted], prediction[counted]
    index = label.astype(np.intp) * NUM_CLASSES + prediction
    weights = np.where(label == prediction, 1, confidence[counted])
    return np.bincount(index, weights, NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def mirrored_shares(weights: np.ndarray) -> np.ndarray:
    """How far left and right of each mask are exchanged, 0..1: weights [N, 19, 19] -> [N].

    Eyes, brows and ears get one vote each: the share of pixels whose side (left/right) differs, of
    those that both masks give to that part. One vote each, because ears have many times the pixels
    of eyes and are easily confused in profile. 0 where no part is visible.
    """
    left, right = np.transpose(LEFT_RIGHT_PAIRS)
    same = weights[:, left, left] + weights[:, right, right]  # [N, 3]
    crossed = weights[:, left, right] + weights[:, right, left]
    both = same + crossed
    votes = both > SEEN * weights.sum((1, 2))[:, None]
    shares = np.where(votes, crossed / np.maximum(both, 1e-9), 0)
    return shares.sum(1) / np.maximum(votes.sum(1), 1)


def mislabelled_scores(confusions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How suspicious each mask is apart from left and right: two [N, 19, 19] -> [N], ≥ 0.

    A class agrees in a picture as far as its union of mask and prediction is free of errors, which
    count as in `weigh`: IoU, if they all counted in full. The score is the sum over classes of
    (usual agreement - agreement here)², where that is lower, times the root of the class's share
    of the picture: the square puts one class that is quite wrong before many that are a little, the
    root lets small parts be heard.
    """
    confusions, weights = join_left_right(confusions), join_left_right(weights)
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
