"""Whether a mask can be of a face that fills its picture, which is what networks expect.

Of other pictures they make masks as well: hair all over, noses here and there. docs/predict.md says
how many of those are found.
"""

import re

import numpy as np

from jaxparse.classes import Classes

PARTS = {"eyes": "eye|brow|glass", "nose": "nose", "mouth": "mouth|lip"}  # words in classes' names
SIDE = 256  # pixels to which the shorter side is thinned out
# Shares of the picture and of its sides. In tiny's masks of 799 faces as networks expect them, the
# smallest nose has 0.006; standard deviations are at most 0.07, mouths 0.1 below noses.
SMALLEST_NOSE = 0.005
WIDEST = 0.08
EYES_TO_NOSE, NOSE_TO_MOUTH = 0.02, 0.08


def doubt(mask: np.ndarray, classes: Classes) -> str:
    """What says that a mask, uint8 [H, W], is of no face that fills the picture; "" if nothing.

    By the names of the classes: nothing is said with a table without eyes, nose or mouth.
    """
    step = max(1, min(mask.shape) // SIDE)
    small = mask[::step, ::step]
    places: dict[str, np.ndarray] = {}  # [N, 2], row and column, 0..1
    for part, words in PARTS.items():
        indices = [i for i, name in enumerate(classes.names) if re.search(words, name.lower())]
        if not indices:
            return ""
        places[part] = np.argwhere(np.isin(small, indices)) / small.shape
    for part, found in places.items():
        if len(found) <= (SMALLEST_NOSE * small.size if part == "nose" else 0):
            return f"it has no {part}"
    for part in ("nose", "mouth"):
        if places[part].std(0).max() > WIDEST:
            return f"its {part} is scattered"
    eyes, nose, mouth = (found[:, 0].mean() for found in places.values())
    if nose - eyes < EYES_TO_NOSE or mouth - nose < NOSE_TO_MOUTH:
        return "eyes, nose and mouth are not one below the other"
    return ""
