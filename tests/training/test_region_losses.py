from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxparse.scoring.counts import count
from jaxparse.scoring.scores import ious
from jaxparse.training.region_losses import (
    dice_per_class,
    dice_per_picture,
    jaccard_losses,
    lovasz_softmax,
)
from tests import reference
from tests.masks import blobs


def lovasz(probabilities: Array, label: np.ndarray, per_picture: bool = False) -> float:
    function = reference.jit(partial(lovasz_softmax, per_picture=per_picture))
    return float(function(probabilities, jnp.asarray(label, jnp.uint8)))


def one_hot(mask: np.ndarray) -> Array:
    """[B, H, W] -> [B, 19, H, W]."""
    return jax.nn.one_hot(mask, 19, axis=1)


def test_lovasz_by_hand() -> None:
    """Two classes, four pixels and an ignored one: the sets of wrong pixels grow one by one."""
    first = jnp.array([0.8, 0.4, 0.3, 0.9, 0.5])
    label = jnp.array([[0, 0, 1, 1, 255]], jnp.uint8)
    losses, backward = jax.vjp(
        lambda p: jaccard_losses(p, label), jnp.stack([first, 1 - first])[:, None]
    )
    # Class 0: errors .9 .6 .3 .2, Jaccard losses 1/3 2/3 3/4 1; class 1: .9 .6 .3 .2, 1/2 2/3 1 1.
    np.testing.assert_allclose(
        losses[:, 0], [0.3 + 0.2 + 0.025 + 0.05, 0.45 + 0.1 + 0.1], rtol=1e-6
    )
    (slopes,) = backward(jnp.ones((2, 1)))
    expected = [[-1 / 4, -1 / 3, 1 / 12, 1 / 3, 0], [0, 1 / 6, -1 / 3, -1 / 2, 0]]
    np.testing.assert_allclose(slopes[:, 0], expected, rtol=1e-6)


def test_lovasz_of_certain_predictions_is_one_minus_iou() -> None:
    """Over the classes of the label, in the batch and in each picture."""
    masks = [blobs(seed, (24, 18)) for seed in range(3)]
    label, prediction = map(np.stack, zip(*masks, strict=True))
    confusions = [count(*pair, 19).confusion for pair in masks]

    def expected(confusion: np.ndarray) -> float:
        return 1 - ious(confusion)[confusion.sum(1) > 0].mean()

    in_batch, per_picture = (lovasz(one_hot(prediction), label, each) for each in (False, True))
    assert in_batch == pytest.approx(expected(sum(confusions)), rel=1e-6)
    assert per_picture == pytest.approx(np.mean([expected(c) for c in confusions]), rel=1e-6)


def test_lovasz_of_a_picture_without_labels_is_zero_in_the_mean() -> None:
    label, prediction = (mask[None] for mask in blobs(0, (24, 18)))
    alone = lovasz(one_hot(prediction), label)
    label = np.concatenate([label, np.full_like(label, 255)])
    probabilities = one_hot(prediction.repeat(2, 0))
    assert lovasz(probabilities, label, True) == pytest.approx(alone / 2)
    assert lovasz(probabilities, label, False) == pytest.approx(alone)


def test_dice_by_hand() -> None:
    """Class 0 has three pixels, class 1 one; the fifth is ignored."""
    first = jnp.array([1.0, 1.0, 0.5, 0.5, 0.25])
    probabilities = jnp.stack([first, 1 - first])[None, :, None]
    target = jnp.array([[1, 1, 1, 0, 0], [0, 0, 0, 1, 0]], bool)[None, :, None]
    squares = 2.25 + 0.25 + 0.25 + 0.0625 + 0.5625 + 0.25  # of all pixels
    overlap = (2.5, 0.5)
    expected = 1 - 2 * sum(overlap) / (squares + 4)
    assert float(dice_per_picture(probabilities, target)) == pytest.approx(expected, abs=1e-3)
    expected = 1 - np.mean([2 * 2.5 / (2.5 + 3), 2 * 0.5 / (0.5 + 1)])
    assert float(dice_per_class(probabilities, target)) == pytest.approx(expected, abs=1e-5)
