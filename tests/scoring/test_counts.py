import numpy as np
import pytest

from jaxparse.scoring.counts import count, total
from tests.masks import blobs
from tests.refusal import refuses


def eroded_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """The paper's boundary of one bool mask: less its erosion by a 3×3 square, `distance` times."""
    height, width = mask.shape
    eroded = mask
    for _ in range(distance):
        padded = np.pad(eroded, 1)
        eroded = np.logical_and.reduce(
            [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        )
    return mask & ~eroded


@pytest.mark.parametrize("size", [(64, 64), (37, 91), (200, 150), (1, 128), (3, 2), (1, 1)])
@pytest.mark.parametrize("ignored", [False, True])
def test_counts_equal_a_plain_count_per_class(size: tuple[int, int], ignored: bool) -> None:
    label, prediction = blobs(sum(size), size, ignored)
    confusion, boundary = count(label, prediction, 19)
    distance = max(1, round(0.02 * np.hypot(*size)))
    counted = label != 255
    seen = np.where(counted, prediction, 255)
    for index in range(19):
        for column in range(19):
            assert confusion[index, column] == ((label == index) & (seen == column)).sum()
        sides = [eroded_boundary(mask == index, distance) for mask in (label, seen)]
        wanted = [(sides[0] & sides[1]).sum(), *(side.sum() for side in sides)]
        np.testing.assert_array_equal(boundary[:, index], wanted)
    assert (confusion.dtype, boundary.dtype) == (np.int64, np.int64)


def test_boundary_is_as_wide_as_asked_and_has_the_picture_s_edge() -> None:
    label = np.zeros((60, 80), np.uint8)  # diagonal 100
    label[:, 40:] = 1
    for share, distance in ((0.02, 2), (0.05, 5), (0.001, 1)):
        boundary = count(label, label, 19, share).boundary
        inner = (60 - 2 * distance) * (40 - 2 * distance)
        np.testing.assert_array_equal(boundary[:, :3].T, [[60 * 40 - inner] * 3] * 2 + [[0] * 3])


def test_all_pixels_ignored_count_nothing() -> None:
    counts = count(np.full((9, 9), 255, np.uint8), np.zeros((9, 9), np.uint8), 19)
    assert not counts.confusion.any() and not counts.boundary.any()


@pytest.mark.parametrize("value", [19, 75, 76, 254])
def test_other_values_are_refused(value: int) -> None:
    label, prediction = blobs(0, (20, 20))
    bad = label.copy()
    bad[3, 3] = value
    with refuses(value, "0..18", "255"):
        count(bad, prediction, 19)
    with refuses("255", "0..18"):
        count(label, np.where(label == 255, 255, prediction).astype(np.uint8), 19)


def test_total_is_the_sum() -> None:
    pairs = [blobs(seed, (40, 50)) for seed in range(3)]
    counts = [count(*pair, 19) for pair in pairs]
    summed = total(iter(counts))
    np.testing.assert_array_equal(summed.confusion, sum(c.confusion for c in counts))
    np.testing.assert_array_equal(summed.boundary, sum(c.boundary for c in counts))
    assert total(counts[:1]).confusion.sum() == (pairs[0][0] != 255).sum()
