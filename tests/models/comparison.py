"""Two formulations of one function, compared in values and gradients."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from tests import reference


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def plain_conv(
    x: Array, kernel: Array, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Array:
    """XLA's convolution with torch's padding of (k - 1)/2 · dilation."""
    pad = dilation * (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad), (pad, pad)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def require_same_function(ours: Callable, plain: Callable, *args: object) -> None:
    """Values and gradients of both, in float64, with a cotangent of noise."""

    @reference.jit
    def differences(*args: object) -> list[Array]:
        (value, pullback), (expected, plain_pullback) = (jax.vjp(f, *args) for f in (ours, plain))
        assert value.shape == expected.shape
        cotangent = noise(*value.shape, seed=1)
        pairs = (value, pullback(cotangent)), (expected, plain_pullback(cotangent))
        return jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), *pairs))

    assert max(map(float, differences(*args))) < 1e-11
