"""Drawn faces: the same for the same arguments, of any size."""

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.data.drawn.picture import draw_face


def test_same_arguments_same_face() -> None:
    image, label = draw_face(3, 5, 64)
    again, label_again = draw_face(3, 5, 64)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    for seed, index in ((3, 6), (4, 5)):
        other, other_label = draw_face(seed, index, 64)
        assert (image != other).mean() > 0.5
        assert (label != other_label).any()


@pytest.mark.parametrize("size", [64, 97, 256])
def test_types_and_ranges(size: int) -> None:
    image, label = draw_face(0, 1, size)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (label.shape, label.dtype) == ((size, size), np.uint8)
    assert label.max() < len(CELEBAMASK)
    assert image.std() > 10


def test_another_size_shows_the_same_face() -> None:
    for index in range(5):
        image, label = draw_face(0, index, 64)
        large_image, large_label = draw_face(0, index, 192)
        assert (large_label[1::3, 1::3] == label).mean() > 0.97
        shrunk = large_image.reshape(64, 3, 64, 3, 3).mean((1, 3))
        assert np.abs(shrunk - image).mean() < 10
