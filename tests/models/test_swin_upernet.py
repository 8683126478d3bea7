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
SIZES = {
    "swin_t": ("128x128", "96x160", "101x75", "101x101", "512x512"),
    "swin_b": ("128x128", "96x160"),
}


@pytest.mark.parametrize(
    "exp, count", [("swin_t", 59_840_992), ("swin_b", 121_178_846), ("swin_nano", 2_956_084)]
)
def test_parameter_count(exp: str, count: int) -> None:
    _, params, _ = split_model(load_experiment(exp))
    assert sum(array.size for array in jax.tree.leaves(params)) == count


@lru_cache(maxsize=1)
def forward(backbone: str, dtype: str) -> Callable[[np.ndarray], Logits]:
    """The network in evaluation mode, compiled; the tests come in the order of networks."""
    graphdef, *state = reference.network(load_experiment(backbone), dtype)
    with reference.precision(dtype):
        state = jax.device_put(state)
    compiled = reference.jit(lambda state, image: nnx.merge(graphdef, *state)(image))

    def call(image: np.ndarray) -> Logits:
        with reference.precision(dtype):
            return jax.device_get(compiled(state, image.astype(dtype)))

    return call


@pytest.mark.parametrize(
    "backbone, dtype, size",
    [(b, dtype, size) for b, sizes in SIZES.items() for dtype in TOLERANCE for size in sizes],
)
def test_logits_equal_mmsegmentations(backbone: str, dtype: str, size: str) -> None:
    height, width = map(int, size.split("x"))
    image = reference.image(1 if size == "512x512" else 2, height, width)
    for head, values in forward(backbone, dtype)(image)._asdict().items():
        assert values.dtype == dtype
        error = reference.sample_error(f"{backbone}/{size}/{head}", values)
        assert error < TOLERANCE[dtype], head
