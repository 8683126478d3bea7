from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxparse.models.ops import convolution
from tests.models.comparison import noise, plain_conv, require_same_function

ODD_AND_EVEN = [(8, 6), (7, 9), (5, 2), (1, 1)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (6, 5), (1, 1)])
@pytest.mark.parametrize("width", [3, 7])
def test_stride_2_starts_at_the_first_pixel(size: tuple[int, int], width: int) -> None:
    x, kernel = noise(2, *size, 3), noise(width, width, 3, 4, seed=2)
    reach = width // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    expected = np.empty((2, (size[0] + 1) // 2, (size[1] + 1) // 2, 4))
    for row, column in np.ndindex(expected.shape[1:3]):
        patch = padded[:, 2 * row :, 2 * column :][:, :width, :width]
        expected[:, row, column] = np.einsum("bijc,ijco->bo", patch, kernel)
    out = convolution.plain_conv(jnp.asarray(x), jnp.asarray(kernel), stride=2)
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.usefixtures("float64", "platform")
@pytest.mark.parametrize("size", [(5, 8), (13, 2)])
@pytest.mark.parametrize("dilation", [1, 3, 12])
def test_depthwise_conv_reaches_beyond_the_map(size: tuple[int, int], dilation: int) -> None:
    require_same_function(
        partial(convolution.depthwise_conv, dilation=dilation),
        partial(plain_conv, dilation=dilation, groups=4),
        noise(2, *size, 4),
        noise(3, 3, 1, 4, seed=2),
    )


@pytest.mark.usefixtures("float64", "platform")
@pytest.mark.parametrize("size", ODD_AND_EVEN)
@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("same", [False, True])
def test_depthwise_conv_strides(size: tuple[int, int], width: int, stride: int, same: bool) -> None:
    x, kernel = noise(2, *size, 4), noise(width, width, 1, 4, seed=2)

    def plain(x: Array, kernel: Array) -> Array:
        if not same:
            return plain_conv(x, kernel, stride, groups=4)
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=4
        )

    ours = partial(convolution.depthwise_conv, stride=stride, same=same)
    require_same_function(ours, plain, x, kernel)


def windows_maximum(x: Array) -> Array:
    window, strides, pads = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, pads)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [*ODD_AND_EVEN, (2, 3)])
def test_max_pool_is_the_windows_maximum(size: tuple[int, int]) -> None:
    require_same_function(convolution.max_pool3x3, windows_maximum, noise(2, *size, 3))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_of_equal_maxima_the_first_gets_the_gradient(size: tuple[int, int]) -> None:
    """In row-major order within the window, as in torch."""
    x = np.random.default_rng(0).integers(0, 3, (*size, 1)).astype(float)
    out, pullback = jax.vjp(convolution.max_pool3x3, jnp.asarray(x)[None])
    grad = noise(*out.shape, seed=1)
    expected = np.zeros(size)
    for row, column in np.ndindex(out.shape[1:3]):
        first = None
        for place in np.ndindex(3, 3):
            y, z = 2 * row - 1 + place[0], 2 * column - 1 + place[1]
            inside = 0 <= y < size[0] and 0 <= z < size[1]
            if inside and (first is None or x[y, z] > x[first]):
                first = y, z
        assert out[0, row, column] == x[first]
        expected[first] += grad[0, row, column, 0]
    np.testing.assert_allclose(pullback(grad)[0][0, :, :, 0], expected, atol=1e-14)
