"""What every network must pass. A new one costs a line in `NETWORKS` and its stored reference.

The stored numbers are of other packages (tests/reference.py): logits in evaluation mode, and one
training step with its losses, gradients and running statistics.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from jaxparse.config import load_experiment
from jaxparse.models import split_model
from jaxparse.models.segmentor import Logits
from jaxparse.training.steps import StepMetrics, losses
from jaxparse.weights.files import flatten
from tests import reference


class Network(NamedTuple):
    """A network's experiment, its size, and the stored references there are."""

    experiment: str
    parameters: int
    sizes: tuple[str, ...] = ()  # of the stored logits; the first is in the default tier
    trains: bool = False  # whether a training step is stored
    slow_step: bool = False  # the step is left out of the default tier
    float32_gradients: tuple[float, float] = (1e-3, 2e-4)  # single norms, their root mean square
    without_gradient: tuple[str, ...] = ()
    full: bool = False  # left out of the default tier: a larger sibling of a tested network


SQUARE = ("128x128", "96x160")
# In float32 rounding turns some ReLUs on or off, of which a ResNet has many: PyTorch's own float32
# is up to 9e-3 from its float64, 1.5e-3 in root mean square. Swin has ReLUs only in its heads.
RELUS = (2e-2, 3e-3)
NETWORKS = {
    "swin_t": Network(
        "swin_t",
        59_840_992,
        ("101x75", *SQUARE, "101x101", "512x512"),
        trains=True,
        # A constant that a 1×1 convolution hands to a batch norm changes nothing.
        without_gradient=("backbone.norm0.bias", "backbone.norm1.bias"),
    ),
    "swin_b": Network("swin_b", 121_178_846, SQUARE, full=True),
    "swin_nano": Network("swin_nano", 2_956_084),
    "tiny": Network("tiny", 1_514_022),
    "lite0": Network("lite0", 3_644_627),
    "deeplabv3plus_r50": Network(
        "deeplabv3plus_r50_20k",
        43_589_878,
        ("101x75", *SQUARE, "101x101", "512x512"),
        trains=True,
        slow_step=True,
        float32_gradients=RELUS,
    ),
    "deeplabv3plus_r101": Network("deeplabv3plus_r101_20k", 62_582_006, SQUARE, full=True),
    "psanet_r50": Network(
        "psanet_r50_80k",
        59_138_694,
        ("101x75", *SQUARE, "101x101"),
        trains=True,
        slow_step=True,
        float32_gradients=RELUS,
    ),
    "psanet_r101": Network("psanet_r101_80k", 78_130_822, SQUARE, full=True),
    "segformer_b0": Network(
        "segformer_b0",
        3_719_027,
        ("101x75", *SQUARE),
        trains=True,
        slow_step=True,
        # Constants that a product hands to a batch norm.
        without_gradient=(
            "backbone.stages.3.norm.bias",
            *(f"decode_head.linear_c.{stage}.bias" for stage in range(4)),
        ),
    ),
    "segformer_b2": Network("segformer_b2", 27_361_235),
    "segformer_b5": Network("segformer_b0", 84_607_955, ("101x75", *SQUARE), full=True),
    "segface_swin_b": Network("segface_swin_b", 91_005_752, full=True),
    "farl_vit_b16": Network("farl_vit_b16", 161_194_003, full=True),
    "parsenet": Network("parsenet", 21_301_523),
    "hf_upernet_swin_t": Network("swin_t", 59_840_992, ("101x75", *SQUARE), full=True),
    "bisenet_r18": Network(
        "bisenet_r18",
        13_300_416,
        ("101x75", *SQUARE),
        trains=True,
        slow_step=True,
        float32_gradients=RELUS,
    ),
    "bisenet_r34": Network("bisenet_r34", 23_408_576, ("101x75", *SQUARE), full=True),
}
HEADS = ("decode", "auxiliary", "auxiliary_2")
TOLERANCE = {"float64": 1e-6, "float32": 1e-4}  # error over the largest logit

full = pytest.mark.full
each_trained = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=(full,) if net.slow_step else ())
        for n, net in NETWORKS.items()
        if net.trains
    ],
)
each_dtype = pytest.mark.parametrize(
    "dtype, tolerance", [("float64", 1e-6), pytest.param("float32", 1e-3, marks=full)]
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=(full,) if net.full else ()) for n, net in NETWORKS.items()]
)
def test_parameter_count(name: str) -> None:
    config = replace(load_experiment(NETWORKS[name].experiment), **reference.FIELDS.get(name, {}))
    _, params, _ = split_model(config)
    assert sum(array.size for array in jax.tree.leaves(params)) == NETWORKS[name].parameters


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


def logits_cases() -> list[Any]:
    """Every size in float64; the first and the last in float32, which differs by rounding only."""
    cases = []
    for name, network in NETWORKS.items():
        for dtype in TOLERANCE:
            sizes = (
                network.sizes if dtype == "float64" else network.sizes[:: len(network.sizes) - 1]
            )
            for size in sizes:
                default = dtype == "float64" and size == network.sizes[0] and not network.full
                marks = () if default else full
                cases.append(pytest.param(name, dtype, size, marks=marks))
    return cases


@pytest.mark.parametrize("name, dtype, size", logits_cases())
def test_logits(name: str, dtype: str, size: str) -> None:
    height, width = map(int, size.split("x"))
    image = reference.image(1 if size == "512x512" else 2, height, width)
    decode, auxiliary = forward(name, dtype)(image)
    for head, values in zip(HEADS, (decode, *auxiliary), strict=False):
        assert values.dtype == dtype
        assert reference.sample_error(f"{name}/{size}/{head}", values) < TOLERANCE[dtype], head


class Step(NamedTuple):
    """What one training step gives."""

    metrics: StepMetrics
    grad_norms: dict[str, float]
    batch_stats: dict[str, np.ndarray]


@cache
def training_step(name: str, dtype: str) -> Step:
    config, graphdef, params, batch_stats = reference.network(name, dtype, **reference.NO_DROPOUT)
    with reference.precision(dtype):
        image = reference.image(2, 128, 128, seed=2).astype(dtype)
        label = reference.labels(2, 128, 128)
        loss = partial(losses, graphdef, config=config)
        step = reference.jit(jax.grad(loss, has_aux=True))
        grads, (metrics, stats) = step(params, batch_stats, image, label, key=jax.random.key(0))
        norms = reference.norms(grads)
        return Step(jax.device_get(metrics), norms, flatten(jax.device_get(stats)))


def expected_norms(name: str) -> dict[str, float]:
    return reference.renamed_norms(reference.STEPS[name]["grad_norm"], name)


def size(norms: Mapping[str, float]) -> float:
    """L2 norm of the whole gradient."""
    return float(np.linalg.norm(list(norms.values())))


@each_trained
@each_dtype
def test_losses(name: str, dtype: str, tolerance: float) -> None:
    metrics, expected = training_step(name, dtype).metrics, reference.STEPS[name]
    assert metrics.decode_loss == pytest.approx(expected["decode.loss_ce"], tolerance)
    assert metrics.auxiliary_loss == pytest.approx(expected["aux.loss_ce"], tolerance)
    assert metrics.loss == pytest.approx(expected["total"], tolerance)
    assert 100 * metrics.pixel_accuracy == pytest.approx(expected["decode.acc_seg"], tolerance)


@each_trained
def test_gradient_norms(name: str) -> None:
    expected = expected_norms(name)
    grad_norms = training_step(name, "float64").grad_norms
    assert grad_norms == pytest.approx(expected, rel=1e-6, abs=1e-12 * size(expected))


@full
@each_trained
def test_gradient_norms_in_float32(name: str) -> None:
    single, root_mean_square = NETWORKS[name].float32_gradients
    grad_norms, expected = training_step(name, "float32").grad_norms, expected_norms(name)
    assert grad_norms == pytest.approx(expected, rel=single, abs=1e-5 * size(expected))
    nonzero = expected.keys() - set(NETWORKS[name].without_gradient)
    errors = [grad_norms[key] / expected[key] - 1 for key in nonzero]
    assert np.sqrt(np.mean(np.square(errors))) < root_mean_square


@each_trained
def test_every_parameter_has_a_gradient(name: str) -> None:
    grad_norms = training_step(name, "float64").grad_norms
    without = {key for key, norm in grad_norms.items() if norm < 1e-12 * size(grad_norms)}
    assert without == set(NETWORKS[name].without_gradient)


@each_trained
@each_dtype
def test_running_statistics(name: str, dtype: str, tolerance: float) -> None:
    stats = training_step(name, dtype).batch_stats
    stored, prefix = reference.BATCH_NORM, f"{name}/"
    of_network = {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}
    assert len(of_network) == (2 if name == "segformer_b0" else 13)
    for key, values in reference.renamed(of_network, name).items():
        assert abs(stats[key] - values).max() < tolerance * abs(values).max(), key
