import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.parsing.network import predict_label
from jaxparse.parsing.results import Parsing, Picture
from jaxparse.parsing.tiles import Level
from tests.parsed import require_highest, resized, softmax


# Smaller than the logits, odd, exactly a tile, one over, tiles in both directions.
@pytest.mark.parametrize("size", [(5, 3), (37, 91), (256, 256), (257, 40), (300, 530)])
def test_tiles_equal_the_picture_as_a_whole(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(16, 12, 19)).astype(np.float32)
    level = Level(jnp.asarray(logits)[None])
    parsing = Parsing(Picture("none", [], size), [level], CELEBAMASK, CELEBAMASK)
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
    level = Level(jnp.asarray(logits)[None], align_corners=True)
    parsing = Parsing(Picture("none", [], (10, 10)), [level], CELEBAMASK, CELEBAMASK)
    rising = np.arange(10) / 3
    expected = 1 / (1 + np.exp(rising - 1.5))
    np.testing.assert_allclose(parsing.probability("background")[4], expected, atol=1e-6)
    assert (parsing.mask == (rising > 1.5)).all()
    block = predict_label(logits, np.array([10, 10]), (10, 10), align_corners=True)
    np.testing.assert_array_equal(block, parsing.mask)
