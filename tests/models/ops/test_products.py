import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.models.ops import products


@pytest.mark.usefixtures("float64")
def test_gelu_is_exact() -> None:
    x = np.linspace(-6, 6, 101)
    expected = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    np.testing.assert_allclose(products.gelu(jnp.asarray(x)), expected, atol=1e-14)
