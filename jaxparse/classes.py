"""The 19 classes of CelebAMask-HQ: names, palette and left/right pairs, in index order.

Names and colours are those of the CelebAMask-HQ challenge (Lee et al. 2020, "MaskGAN",
arXiv:1907.11922). Left and right are the person's own: seen from the front, the left eye is on the
right.
"""

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

# Classes that change places when a picture is mirrored.
LEFT_RIGHT_PAIRS = ((4, 5), (6, 7), (8, 9))
