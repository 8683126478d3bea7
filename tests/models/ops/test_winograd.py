from functools import partial

import jax
import numpy as np
import pytest

from jaxparse.models.ops import winograd
from tests import reference
from tests.models.comparison import noise, plain_conv, require_same_function

ODD_AND_EVEN = [(8, 6), (7, 9), (5, 2), (1, 1)]
FEW, MANY = 3, winograd.WINOGRAD_MIN_CHANNELS


def convolutions(function: partial, *args: np.ndarray) -> int:
    """How many of XLA's convolutions the compiled function runs."""
    return jax.jit(function).lower(*args).as_text().count("stablehlo.convolution")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", ODD_AND_EVEN)
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_conv3x3_is_the_plain_convolution(size: tuple[int, int], dilation: int) -> None:
    require_same_function(
        partial(winograd.conv3x3, dilation=dilation),
        partial(plain_conv, dilation=dilation),
        noise(2, *size, MANY),
        noise(3, 3, MANY, MANY, seed=2) / MANY,
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("channels", [(FEW, MANY), (MANY, FEW), (FEW, FEW)])
def test_conv3x3_of_few_channels(channels: tuple[int, int]) -> None:
    x, kernel = noise(2, 5, 6, channels[0]), noise(3, 3, *channels, seed=2)
    ours, plain = (partial(f, dilation=2) for f in (winograd.conv3x3, plain_conv))
    require_same_function(ours, plain, x, kernel)
    assert convolutions(ours, x, kernel) == 1


@pytest.mark.usefixtures("float64")
def test_conv3x3_off_the_cpu(platform: str) -> None:
    x, kernel = noise(2, 5, 6, MANY), noise(3, 3, MANY, MANY, seed=2) / MANY
    ours, plain = (partial(f, dilation=2) for f in (winograd.conv3x3, plain_conv))
    require_same_function(ours, plain, x, kernel)
    assert convolutions(ours, x, kernel) == (platform == "elsewhere")


def test_conv3x3_in_float32() -> None:
    x, kernel = noise(1, 16, 16, 64).astype("float32"), noise(3, 3, 64, 64).astype("float32")
    for dilation in (1, 2, 4):
        values, expected = (
            reference.jit(partial(function, dilation=dilation))(x, kernel)
            for function in (winograd.conv3x3, plain_conv)
        )
        assert abs(values - expected).max() < 3e-6 * abs(expected).max()
