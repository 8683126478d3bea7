import numpy as np
import pytest

from jaxparse.parsing.alignment import align, corners, crop, invert, side
from tests.parsed import face
from tests.refusal import refuses

# Eyes 20 apart, the mouth 30 below them.
POINTS = np.array([(40, 50), (60, 50), (50, 65), (42, 80), (58, 80)], float)
# Of a picture of 100 × 100 that is its own crop: 100 = 4 * 25 > 3.6 * 20.
WHOLE = np.array([(37.5, 48), (62.5, 48), (50, 58), (42, 68), (58, 68)])


def turned(points: np.ndarray, degrees: float, scale: float, shift: tuple) -> np.ndarray:
    """Clockwise, as y points down."""
    angle = np.deg2rad(degrees)
    rotation = [(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))]
    return scale * points @ np.array(rotation) + shift


def test_the_crop_of_appendix_c() -> None:
    """Side: the larger of 4 * 20 and 3.6 * 30; centre: a tenth of 30 below the eyes' middle."""
    alignment = align(POINTS)
    np.testing.assert_allclose(alignment, [(108, 0, 50 - 54), (0, 108, 53 - 54)], atol=1e-12)
    assert side(alignment) == pytest.approx(108)
    wide = POINTS * (2, 1) - (50, 0)  # eyes 40 apart
    assert side(align(wide)) == pytest.approx(160)


def test_the_crop_leans_as_eyes_and_mouth_do_together() -> None:
    """Eyes level, the mouth 10 further right: across is (20, 0) + (30, -10)."""
    leaning = POINTS + np.array([(0, 0), (0, 0), (5, 0), (10, 0), (10, 0)])
    across, below = align(leaning)[:, :2].T
    assert across[1] / across[0] == pytest.approx(-10 / 50)
    np.testing.assert_allclose(below, (-across[1], across[0]))


@pytest.mark.parametrize("degrees", [15, 90, 180, -130])
def test_the_crop_turns_grows_and_moves_with_the_face(degrees: float) -> None:
    how = degrees, 1.7, (300, -20)
    there = align(turned(POINTS, *how))
    np.testing.assert_allclose(corners(there), turned(corners(align(POINTS)), *how))
    back = invert(there) @ np.vstack([corners(there).T, np.ones(4)])
    np.testing.assert_allclose(back.T, [(0, 0), (1, 0), (1, 1), (0, 1)], atol=1e-12)


def test_a_picture_that_is_its_own_crop() -> None:
    image = face(0, (100, 100))
    np.testing.assert_array_equal(crop(image, align(WHOLE), 100), image)
    blocks = image.reshape(50, 2, 50, 2, 3).mean((1, 3))  # shrunk without aliases
    assert np.abs(crop(image, align(WHOLE), 50) - blocks).max() <= 0.5


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_face_is_set_upright(turns: int) -> None:
    """By quarters, which need no interpolation: counterclockwise, as np.rot90."""
    image = face(0, (100, 100))
    points = turned(WHOLE - 50, -90 * turns, 1, (50, 50))
    found = crop(np.rot90(image, turns), align(points), 100)
    assert np.abs(found.astype(int) - image).max() <= 1


def test_a_mirrored_photograph_has_the_mirrored_crop() -> None:
    image = face(1, (90, 120))
    points = turned(POINTS, 20, 0.8, (15, 20))
    mirrored = (points * (-1, 1) + (120, 0))[[1, 0, 2, 4, 3]]
    found = crop(image[:, ::-1], align(mirrored), 64)
    assert np.abs(found.astype(int) - crop(image, align(points), 64)[:, ::-1]).max() <= 1


def test_beyond_the_border_is_the_mirror_image() -> None:
    image = face(2, (100, 100))
    found = crop(image, align(WHOLE - (30, 140)), 100)  # 30 columns and 140 rows too far
    np.testing.assert_array_equal(found[:, :30], found[:, 30:60][:, ::-1])
    np.testing.assert_array_equal(found[:, 30:][:40], image[60:, :70])  # mirrored twice: as it is
    np.testing.assert_array_equal(found[:, 30:][40:], image[::-1][:60, :70])


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), POINTS * np.nan])
def test_points_that_are_no_face_are_refused(points: np.ndarray) -> None:
    with refuses(f"{points[0, 0]}", "two eyes"):
        align(points)
