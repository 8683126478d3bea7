import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.config import Config
from jaxparse.training.losses import log_sum_exp, total_loss


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    return total_loss(logits, label, Config())


def test_by_hand_with_an_ignored_pixel() -> None:
    """Ignored pixels add nothing to the sum and still count in the mean."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])).T.reshape(1, 3, 1, 2)
    assert float(cross_entropy(logits, jnp.array([[[0, 2]]], jnp.uint8))) == pytest.approx(
        (np.log(2) - np.log(0.8)) / 2
    )
    assert float(cross_entropy(logits, jnp.array([[[0, 255]]], jnp.uint8))) == pytest.approx(
        np.log(2) / 2
    )


def test_all_ignored_is_zero_with_zero_gradient() -> None:
    logits, label = jnp.ones((1, 19, 2, 2)), jnp.full((1, 2, 2), 255, jnp.uint8)
    loss, grad = jax.value_and_grad(cross_entropy)(logits, label)
    assert float(loss) == 0
    np.testing.assert_array_equal(grad, 0)


def test_large_logits_do_not_overflow() -> None:
    logits = jnp.array([1e4, -1e4, 0.0]).reshape(1, 3, 1, 1)
    assert float(log_sum_exp(logits)[0, 0, 0]) == 1e4
    assert float(cross_entropy(logits, jnp.array([[[1]]], jnp.uint8))) == 2e4


def test_gradient_is_that_of_the_plain_formulation() -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 19, 5, 7)), jnp.float32)
    label = rng.integers(0, 19, (2, 5, 7)).astype(np.uint8)
    label[0, :2] = 255

    def plain(logits: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(logits, axis=1)
        chosen = jnp.take_along_axis(logs, jnp.minimum(label, 18)[:, None].astype(int), axis=1)
        return jnp.where(label == 255, 0, -chosen[:, 0]).mean()

    ours = jax.value_and_grad(cross_entropy)(logits, jnp.asarray(label))
    theirs = jax.value_and_grad(plain)(logits)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-8)
