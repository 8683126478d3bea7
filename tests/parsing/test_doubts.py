from collections.abc import Callable

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK, convert_label, load_classes, parse_classes
from jaxparse.data.drawn.picture import draw_face
from jaxparse.parsing.doubts import doubt


def mask(index: int = 0) -> np.ndarray:
    """A drawn face's, which fills its picture as those of CelebA-HQ do."""
    return draw_face(0, index, 128)[1].copy()


def without(*names: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda label: np.where(
        np.isin(label, [CELEBAMASK.index(name) for name in names]), 1, label
    ).astype(np.uint8)


def scattered(label: np.ndarray) -> np.ndarray:
    label[5:25, 100:120] = CELEBAMASK.index("nose")
    return label


@pytest.mark.parametrize("index", range(20))
def test_faces_that_fill_the_picture_are_not_doubted(index: int) -> None:
    assert doubt(mask(index), CELEBAMASK) == ""
    assert doubt(np.repeat(mask(index), 5, 1), CELEBAMASK) == ""  # stretched, and thinned out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda label: np.full_like(label, 13), "no eyes"),
        (without("nose"), "no nose"),
        (without("mouth", "upper_lip", "lower_lip"), "no mouth"),
        (without("left_eye", "right_eye", "left_brow", "right_brow", "eye_glasses"), "no eyes"),
        (scattered, "nose is scattered"),
        (lambda label: label[::-1], "one below the other"),
        (lambda label: np.pad(label, 300), "no nose"),  # a sixth of the picture
    ],
)
def test_masks_that_cannot_be_faces(change: Callable, words: str) -> None:
    assert words in doubt(change(mask()), CELEBAMASK)


@pytest.mark.parametrize("name", ["zllrunning", "facer"])
def test_parts_are_known_by_their_names(name: str) -> None:
    classes = load_classes(name)
    label = convert_label(mask(), CELEBAMASK, classes)
    assert doubt(label, classes) == ""
    assert doubt(np.zeros_like(label), classes) == "it has no eyes"


def test_nothing_is_said_without_such_classes() -> None:
    classes = parse_classes({"names": ["background", "hair", "nose", "mouth"]}, "own", "own.json")
    assert doubt(np.zeros((64, 64), np.uint8), classes) == ""
