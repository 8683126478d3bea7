from collections.abc import Callable, Iterator

import jax
import pytest
from flax import nnx

from jaxparse.config import load_experiment
from jaxparse.models import split_model
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


@pytest.fixture(scope="module")
def forward(request: pytest.FixtureRequest) -> Iterator[Callable]:
    """The network of (backbone, dtype) in evaluation mode, compiled: image -> Logits."""
    backbone, dtype = request.param
    graphdef, *state = reference.network(load_experiment(backbone), dtype)
    with reference.precision(dtype):
        state = jax.device_put(state)
        compiled = reference.jit(lambda state, image: nnx.merge(graphdef, *state)(image))
        yield lambda image: compiled(state, image.astype(dtype))


@pytest.mark.parametrize(
    "forward, size",
    [((b, dtype), size) for b, sizes in SIZES.items() for dtype in TOLERANCE for size in sizes],
    indirect=["forward"],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_logits_equal_mmsegmentations(
    forward: Callable, size: str, request: pytest.FixtureRequest
) -> None:
    backbone, dtype = request.node.callspec.params["forward"]
    height, width = map(int, size.split("x"))
    logits = forward(reference.image(1 if size == "512x512" else 2, height, width))
    for head, values in logits._asdict().items():
        assert values.dtype == dtype
        error = reference.sample_error(f"{backbone}/{size}/{head}", values)
        assert error < TOLERANCE[dtype], head
