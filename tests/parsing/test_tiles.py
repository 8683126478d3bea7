import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.models.ops.resize import resize_matrix
from jaxparse.parsing.network import predict_label
from jaxparse.parsing.parser import Parsing, Picture
from jaxparse.parsing.tiles import Level, window_matrix, window_starts
from tests.parsed import require_highest, resized, softmax


# Smaller than the logits, odd, exactly a tile, one over, tiles in both directions.
@pytest.mark.parametrize("size", [(5, 3), (37, 91), (256, 256), (257, 40), (300, 530)])
def test_tiles_equal_the_picture_as_a_whole(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(16, 12, 19)).astype(np.float32)
    level = Level(jnp.asarray(logits)[None, None, None], (0,), (0,), (64, 48), (64, 48))
    parsing = Parsing(Picture("none", [], size), [level])
    assert parsing.mask.shape == size and parsing.mask.dtype == np.uint8
    expected = softmax(resized(logits, size))
    require_highest(parsing.mask, expected)
    require_highest(np.asarray(predict_label(logits, np.array(size, np.int32), size)), expected)
    probability = parsing.probability("hair")
    assert probability.dtype == np.float32
    np.testing.assert_allclose(
        probability, expected[..., CELEBAMASK.names.index("hair")], atol=1e-6
    )
    np.testing.assert_allclose(parsing.confidence(), expected.max(2), atol=1e-6)


def test_corners_can_be_aligned() -> None:
    """Logits that rise by 1 from column to column: the corners' centres meet, each step is 1/3."""
    ramp = np.arange(4, dtype=np.float32)
    logits = np.stack([np.full((4, 4), 1.5), np.tile(ramp, (4, 1))], -1).astype(np.float32)
    level = Level(jnp.asarray(logits)[None, None, None], (0,), (0,), (16, 16), (16, 16), True)
    parsing = Parsing(Picture("none", [], (10, 10)), [level])
    rising = np.arange(10) / 3
    expected = 1 / (1 + np.exp(rising - 1.5))
    np.testing.assert_allclose(parsing.probability("background")[4], expected, atol=1e-6)
    assert (parsing.mask == (rising > 1.5)).all()
    block = predict_label(logits, np.array([10, 10]), (10, 10), align_corners=True)
    np.testing.assert_array_equal(block, parsing.mask)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (64, 64, 48, (0,)),
        (65, 64, 48, (0, 1)),
        (160, 64, 48, (0, 48, 96)),
        (161, 64, 48, (0, 33, 64, 97)),  # three windows would leave the middle one off centre
        (128, 64, 64, (0, 64)),
    ],
)
def test_windows_reach_both_ends(
    length: int, window: int, stride: int, starts: tuple[int, ...]
) -> None:
    assert window_starts(length, window, stride) == starts
    gaps = np.diff(starts)
    assert (gaps <= stride).all() and starts == tuple(length - window - x for x in starts[::-1])


def test_a_window_over_the_whole_picture_is_plain_resizing() -> None:
    for in_size, out_size in [(16, 5), (16, 64), (7, 100)]:
        matrix = window_matrix(in_size, 0, 96, 96, out_size)
        np.testing.assert_allclose(matrix, resize_matrix(in_size, out_size), atol=1e-12)
        matrix = window_matrix(in_size, 0, 96, 96, out_size, align_corners=True)
        aligned = resize_matrix(in_size, out_size, align_corners=True)
        np.testing.assert_allclose(matrix, aligned, atol=1e-12)


def test_windows_are_averaged_where_they_overlap() -> None:
    """Three windows of 8 pixels on a picture of 8 × 16, each sure of a class of its own."""
    logits = np.full((1, 3, 1, 2, 2, 19), -20, np.float32)
    for column, index in enumerate((1, 13, 17)):
        logits[0, column, ..., index] = 20
    level = Level(jnp.asarray(logits), (0,), (0, 4, 8), (8, 8), (8, 16))
    parsing = Parsing(Picture("none", [], (8, 16)), [level])
    shares = [parsing.probability(CELEBAMASK.names[index])[3] for index in (1, 13, 17)]
    np.testing.assert_allclose(shares[0], [1] * 4 + [0.5] * 4 + [0] * 8, atol=1e-6)
    np.testing.assert_allclose(shares[1], [0] * 4 + [0.5] * 8 + [0] * 4, atol=1e-6)
    np.testing.assert_allclose(shares[2], shares[0][::-1], atol=1e-6)
