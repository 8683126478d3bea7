"""Training against mmsegmentation's numbers: one step of swin_t, ten of swin_nano."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.checkpoint import flatten
from jaxparse.config import load_experiment
from jaxparse.optim import learning_rate, make_optimizer
from jaxparse.steps import MEAN, STD, StepMetrics, TrainState, losses, make_train_step
from tests import reference

STEP = reference.TRAINING["training_step"]
OPTIMISATION = reference.TRAINING["optimisation"]


# A constant that a 1×1 convolution hands to a batch norm changes nothing.
WITHOUT_GRADIENT = {"backbone.norm0.bias", "backbone.norm1.bias"}


class Step(NamedTuple):
    """What one training step gives."""

    metrics: StepMetrics
    grad_norms: dict[str, float]
    batch_stats: dict[str, np.ndarray]


def norms(tree: dict[str, Any]) -> dict[str, float]:
    """L2 norm of each array by dotted name."""
    arrays = {name: np.asarray(array, np.float64) for name, array in flatten(tree).items()}
    return {name: float(np.linalg.norm(array)) for name, array in arrays.items()}


def renamed(values: Mapping[str, Any], file: str) -> dict[str, Any]:
    """`values` by this package's names."""
    names = reference.our_names(file)
    return {names[key]: value for key, value in values.items()}


def training_step(dtype: str) -> Step:
    config = replace(load_experiment("swin_t"), dropout_rate=0, drop_path_rate=0)
    graphdef, params, batch_stats = reference.network(config, dtype)
    with reference.precision(dtype):
        image = reference.image(2, 128, 128, seed=2).astype(dtype)
        label = reference.labels(2, 128, 128)
        loss = partial(losses, graphdef, auxiliary_weight=config.auxiliary_weight)
        step = reference.jit(jax.grad(loss, has_aux=True))
        grads, (metrics, stats) = step(params, batch_stats, image, label, key=jax.random.key(0))
        return Step(jax.device_get(metrics), norms(grads), flatten(jax.device_get(stats)))


@pytest.fixture(scope="module")
def step64() -> Step:
    return training_step("float64")


@pytest.fixture(scope="module")
def step32() -> Step:
    return training_step("float32")


@pytest.fixture(scope="module")
def grad_norms() -> dict[str, float]:
    """The reference's."""
    return renamed(STEP["grad_norm"], "mmseg_swin_t")


@pytest.mark.parametrize("fixture, tolerance", [("step64", 1e-6), ("step32", 1e-3)])
def test_losses_equal_mmsegmentations(
    fixture: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    metrics = request.getfixturevalue(fixture).metrics
    assert metrics.decode_loss == pytest.approx(STEP["decode.loss_ce"], tolerance)
    assert metrics.auxiliary_loss == pytest.approx(STEP["aux.loss_ce"], tolerance)
    assert metrics.loss == pytest.approx(STEP["total"], tolerance)
    assert 100 * metrics.pixel_accuracy == pytest.approx(STEP["decode.acc_seg"], tolerance)


def test_gradient_norms_equal_mmsegmentations(step64: Step, grad_norms: dict[str, float]) -> None:
    whole = np.linalg.norm(list(grad_norms.values()))
    assert step64.grad_norms == pytest.approx(grad_norms, rel=1e-6, abs=1e-12 * whole)


def test_gradient_norms_in_float32(step32: Step, grad_norms: dict[str, float]) -> None:
    whole = np.linalg.norm(list(grad_norms.values()))
    assert step32.grad_norms == pytest.approx(grad_norms, rel=1e-3, abs=1e-5 * whole)


def test_every_parameter_has_a_gradient(step64: Step) -> None:
    whole = np.linalg.norm(list(step64.grad_norms.values()))
    without = {name for name, norm in step64.grad_norms.items() if norm < 1e-12 * whole}
    assert without == WITHOUT_GRADIENT


@pytest.mark.parametrize("fixture, tolerance", [("step64", 1e-6), ("step32", 1e-3)])
def test_running_means_equal_mmsegmentations(
    fixture: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    stats = request.getfixturevalue(fixture).batch_stats
    expected = renamed(np.load(reference.FOLDER / "batch_norm.npz"), "mmseg_swin_t")
    assert len(expected) == 13
    for name, values in expected.items():
        assert abs(stats[name] - values).max() < tolerance * abs(values).max(), name


def test_ten_steps_equal_mmsegmentations() -> None:
    changes = {"steps": 10, "warmup_steps": 3, "dropout_rate": 0, "drop_path_rate": 0}
    config = replace(load_experiment("swin_nano"), learning_rate=1e-3, **changes)
    _, params, batch_stats = reference.network(config, "float64")
    with reference.precision("float64"):
        # The step normalises: back to exactly the reference's numbers.
        image = reference.image(4, 64, 64, seed=3).astype("float64") * STD + MEAN
        batch = {"image": image, "label": reference.labels(4, 64, 64, seed=3)}
        opt_state = make_optimizer(config).init(params)
        state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state)
        state = jax.device_put(state)
        step = make_train_step(config).lower(state, batch).compile(reference.FAST_COMPILE)
        rates, total_losses = [], []
        for index in range(config.steps):
            rates.append(float(learning_rate(config, index)))
            state, metrics = step(state, batch)
            total_losses.append(float(metrics.loss))
        after = norms(state.params) | norms(state.batch_stats)
    assert rates == pytest.approx(OPTIMISATION["learning_rates"], rel=1e-12)
    assert total_losses == pytest.approx(OPTIMISATION["total_losses"], rel=1e-6)
    assert after == pytest.approx(renamed(OPTIMISATION["norm_after"], "mmseg_swin_nano"), rel=1e-6)
