import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK, becomes, convert_label, load_classes
from jaxparse.parsing.network import predict_label
from jaxparse.parsing.results import Parsing, Picture
from jaxparse.parsing.tiles import Level
from tests.parsed import require_highest, resized, softmax
from tests.tables import numbered


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
    parsing = Parsing(Picture("none", [], (10, 10)), [level], numbered(2), numbered(2))
    rising = np.arange(10) / 3
    expected = 1 / (1 + np.exp(rising - 1.5))
    np.testing.assert_allclose(parsing.probability("c0")[4], expected, atol=1e-6)
    assert (parsing.mask == (rising > 1.5)).all()
    block = predict_label(logits, np.array([10, 10]), (10, 10), align_corners=True)
    np.testing.assert_array_equal(block, parsing.mask)


@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_of_merged_classes_are_summed(flip: bool) -> None:
    """And the highest sum wins; glasses, which lapa ignores, take part in none."""
    lapa, facer = load_classes("lapa"), load_classes("facer")
    logits = np.random.default_rng(1).normal(size=(1 + flip, 8, 8, 19)).astype(np.float32)
    level, size = Level(jnp.asarray(logits)), (40, 24)
    picture = Picture("none", [], size)
    whole = Parsing(picture, [level], CELEBAMASK, CELEBAMASK)
    probabilities = np.stack([whole.probability(name) for name in CELEBAMASK.names])
    merged, places = np.zeros((len(lapa), *size)), becomes(CELEBAMASK, lapa)
    for index, place in enumerate(places):
        if place != 255:
            merged[place] += probabilities[index]
    parsing = Parsing(picture, [level], CELEBAMASK, lapa)
    require_highest(parsing.mask, merged.transpose(1, 2, 0))
    np.testing.assert_allclose(parsing.probability("background"), merged[0], atol=1e-6)
    np.testing.assert_allclose(parsing.confidence(), merged.max(0), atol=1e-6)
    assert (parsing.mask != convert_label(whole.mask, CELEBAMASK, lapa)).any()
    other = Parsing(picture, [level], CELEBAMASK, facer).mask
    np.testing.assert_array_equal(convert_label(other, facer, CELEBAMASK), whole.mask)
