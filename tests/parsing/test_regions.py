import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.parsing.regions import (
    Edge,
    Region,
    cut_out,
    feather,
    grow,
    parse_region,
    require_classes,
)
from tests.refusal import refuses


def peaks(shape: tuple[int, int]) -> np.ndarray:
    """Mostly dark, some bright pixels: uint8."""
    return (255 * np.random.default_rng(0).random(shape) ** 12).astype(np.uint8)


def nearby(mask: np.ndarray, radius: int, choose: np.ufunc) -> np.ndarray:
    """`choose` (maximum, minimum) over the pixels within the radius, one by one."""
    rows, columns = np.indices(mask.shape)
    return np.array(
        [
            [
                choose.reduce(mask[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2])
                for x in range(mask.shape[1])
            ]
            for y in range(mask.shape[0])
        ]
    )


@pytest.mark.parametrize("shape", [(9, 14), (1, 5), (13, 6)])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 8, 17, 1000])
def test_grows_and_shrinks_by_a_disc(shape: tuple[int, int], radius: int) -> None:
    mask = peaks(shape)
    np.testing.assert_array_equal(grow(mask, radius), nearby(mask, radius, np.maximum))
    mask = 255 - mask
    np.testing.assert_array_equal(grow(mask, -radius), nearby(mask, radius, np.minimum))


@pytest.mark.parametrize("shape", [(9, 14), (1, 5), (300, 130)])
@pytest.mark.parametrize("pixels", [1, 2, 7, 30])
def test_feathers_by_a_gaussian_that_ends(shape: tuple[int, int], pixels: int) -> None:
    mask = peaks(shape)
    weights = np.exp(-0.5 * (np.arange(-pixels, pixels + 1) / (pixels / 2)) ** 2)
    weights /= weights.sum()
    wanted = np.pad(mask.astype(float), pixels, mode="edge")
    wanted = sum(w * wanted[i : i + shape[0]] for i, w in enumerate(weights))
    wanted = sum(w * wanted[:, i : i + shape[1]] for i, w in enumerate(weights))
    assert np.abs(feather(mask, pixels) - wanted).max() < 0.501


def test_a_feathered_edge_ends_where_it_is_said_to() -> None:
    mask = np.zeros((4, 60), np.uint8)
    mask[:, 30:] = 255
    row = feather(mask, 10)[0].astype(int)
    assert (row[:20] == 0).all() and row[20] > 0 and row[39] < 255 and (row[40:] == 255).all()
    assert (np.diff(row[19:41]) > 0).all() and row[29] + row[30] == 255
    np.testing.assert_array_equal(feather(mask, 0), mask)


def test_a_region_is_cut_out_as_alpha() -> None:
    picture, region = np.full((2, 3, 3), 7, np.uint8), peaks((2, 3))
    cut = cut_out(picture, region)
    np.testing.assert_array_equal(cut[..., :3], picture)
    np.testing.assert_array_equal(cut[..., 3], region)


def test_regions_are_read_from_words() -> None:
    assert parse_region("hair") == Region("hair", ("hair",))
    assert parse_region("skin,nose") == Region("skin_nose", ("skin", "nose"))
    assert parse_region("skin,nose=face") == Region("face", ("skin", "nose"))
    for text in ("", "skin,,nose", "hair=a/b", "=face", "hair=overlay"):
        with refuses("--region", text, "CLASS"):
            parse_region(text)
    with refuses("beard", "background, skin"):
        require_classes([Region("x", ("hair", "beard"))], CELEBAMASK)
    with refuses("-1", "at least 0"):
        Edge(feather=-1)
