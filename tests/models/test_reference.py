"""Every network against mmsegmentation's numbers, in evaluation mode."""

from collections.abc import Callable
from functools import lru_cache

import jax
import numpy as np
import pytest
from flax import nnx

from jaxparse.config import load_experiment
from jaxparse.models import split_model
from jaxparse.models.segmentor import Logits
from tests import reference

TOLERANCE = {"float32": 1e-4, "float64": 1e-6}  # error over the largest logit
BOTH = ("128x128", "96x160")
ODD = (*BOTH, "101x75", "101x101")
SIZES = {
    "swin_t": (*ODD, "512x512"),
    "swin_b": BOTH,
    "deeplabv3plus_r50": (*ODD, "512x512"),
    "deeplabv3plus_r101": BOTH,
    "psanet_r50": ODD,
    "psanet_r101": BOTH,
}


@pytest.mark.parametrize(
    "exp, count",
    [
        ("swin_t", 59_840_992),
        ("swin_b", 121_178_846),
        ("swin_nano", 2_956_084),
        ("deeplabv3plus_r50_20k", 43_589_878),
        ("deeplabv3plus_r101_20k", 62_582_006),
        ("psanet_r50_80k", 59_138_694),
        ("psanet_r101_80k", 78_130_822),
    ],
)
def test_parameter_count(exp: str, count: int) -> None:
    _, params, _ = split_model(load_experiment(exp))
    assert sum(array.size for array in jax.tree.leaves(params)) == count


@lru_cache(maxsize=1)
def forward(name: str, dtype: str) -> Callable[[np.ndarray], Logits]:
    """The network in evaluation mode, compiled; the tests come in the order of networks."""
    _, graphdef, *state = reference.network(name, dtype)
    with reference.precision(dtype):
        state = jax.device_put(state)
    compiled = reference.jit(lambda state, image: nnx.merge(graphdef, *state)(image))

    def call(image: np.ndarray) -> Logits:
        with reference.precision(dtype):
            return jax.device_get(compiled(state, image.astype(dtype)))

    return call


# Each size is compiled anew; float32, which differs by rounding only, has the first and the last.
CASES = [
    (name, dtype, size)
    for name, sizes in SIZES.items()
    for dtype, chosen in (("float32", (sizes[0], sizes[-1])), ("float64", sizes))
    for size in chosen
]


@pytest.mark.parametrize("name, dtype, size", CASES)
def test_logits_equal_mmsegmentations(name: str, dtype: str, size: str) -> None:
    height, width = map(int, size.split("x"))
    image = reference.image(1 if size == "512x512" else 2, height, width)
    for head, values in forward(name, dtype)(image)._asdict().items():
        assert values.dtype == dtype
        assert reference.sample_error(f"{name}/{size}/{head}", values) < TOLERANCE[dtype], head
