"""The 19 classes of CelebAMask-HQ: names, palette and left/right pairs, in index order.

Names and colours are those of the CelebAMask-HQ challenge (Lee et al. 2020, "MaskGAN",
arXiv:1907.11922). Left and right are the person's own: seen from the front, the left eye is on the
right.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

NAMES = (
    "background",
    "skin",
    "nose",
    "eye_glasses",
    "left_eye",
    "right_eye",
    "left_brow",
    "right_brow",
    "left_ear",
    "right_ear",
    "mouth",
    "upper_lip",
    "lower_lip",
    "hair",
    "hat",
    "earring",
    "necklace",
    "neck",
    "cloth",
)
NUM_CLASSES = len(NAMES)
IGNORE_LABEL = 255  # pixels that neither the loss nor the metrics count

# [19, 3] RGB, 0..255
PALETTE = np.array(
    [
        (0, 0, 0),
        (204, 0, 0),
        (76, 153, 0),
        (204, 204, 0),
        (51, 51, 255),
        (204, 0, 204),
        (0, 255, 255),
        (255, 204, 204),
        (102, 51, 0),
        (255, 0, 0),
        (102, 204, 0),
        (255, 255, 0),
        (0, 0, 153),
        (0, 0, 204),
        (255, 51, 153),
        (0, 204, 204),
        (0, 51, 0),
        (255, 153, 51),
        (0, 204, 0),
    ],
    np.uint8,
)

# Classes that swap when a picture is mirrored.
LEFT_RIGHT_PAIRS = ((4, 5), (6, 7), (8, 9))
# [19]: the class that each becomes.
MIRRORED = np.arange(NUM_CLASSES)
MIRRORED[np.ravel(LEFT_RIGHT_PAIRS)] = np.ravel([pair[::-1] for pair in LEFT_RIGHT_PAIRS])

# The values 0..18 of masks in other conventions, as classes of this package.
LABEL_ORDERS = {
    "official": tuple(range(NUM_CLASSES)),
    # github.com/zllrunning/face-parsing.PyTorch, and the BiSeNets trained there
    "zllrunning": (0, 1, 6, 7, 4, 5, 3, 8, 9, 15, 2, 10, 11, 12, 17, 16, 18, 13, 14),
    # github.com/FacePerceiver/facer, farl/celebm/448: FaRL's order of painting. facer calls left
    # what CelebAMask-HQ's parts call right.
    "facer": (0, 17, 1, 18, 8, 9, 6, 7, 4, 5, 2, 10, 12, 11, 13, 3, 14, 15, 16),
}
LabelOrder = Literal["official", "zllrunning", "facer"]


def order_names(order: str) -> tuple[str, ...]:
    """The names of the classes in that order."""
    return tuple(NAMES[index] for index in LABEL_ORDERS[order])


def to_official(label: np.ndarray, order: str) -> np.ndarray:
    """A mask uint8 [H, W] of 0..18 and 255 in `order` -> the same in this package's classes."""
    return label if order == "official" else _table(LABEL_ORDERS[order])[label]


def from_official(label: np.ndarray, order: str) -> np.ndarray:
    """The inverse of `to_official`."""
    return label if order == "official" else _table(np.argsort(LABEL_ORDERS[order]))[label]


def exchange_sides(label: np.ndarray) -> np.ndarray:
    """A mask uint8 [H, W] of 0..18 and 255 with left and right exchanged; nothing moves."""
    return _table(MIRRORED)[label]


def _table(classes: Sequence[int]) -> np.ndarray:
    """uint8 [256]: 0..18 -> `classes`, other values unchanged."""
    table = np.arange(256, dtype=np.uint8)
    table[:NUM_CLASSES] = classes
    return table
