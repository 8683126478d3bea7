import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxparse.models.ops import products
from tests.models.comparison import noise, require_same_function


@pytest.mark.usefixtures("float64")
def test_gelu_is_exact() -> None:
    x = np.linspace(-6, 6, 101)
    expected = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    np.testing.assert_allclose(products.gelu(jnp.asarray(x)), expected, atol=1e-14)


@pytest.mark.usefixtures("float64")
def test_attention_is_softmax_times_values() -> None:
    def plain(logits: Array, v: Array) -> Array:
        return jnp.einsum("bhnm,bmhc->bnhc", jax.nn.softmax(logits, axis=-1), v)

    logits = 50 + 5 * noise(2, 3, 7, 5)  # exp of 800 would overflow: the largest are taken off
    logits[0, 0, 0] = 800
    require_same_function(products.attend, plain, logits, noise(2, 5, 3, 4, seed=2))
