"""Whole optimisations of a few steps against mmsegmentation's numbers."""

import jax
import jax.numpy as jnp
import pytest

from jaxparse.training import steps
from jaxparse.training.optim import learning_rate, make_optimizer
from jaxparse.training.steps import TrainState, make_train_step
from tests import reference

# Five steps of SGD at 0.01 from these weights are chaotic: rounding errors grow a hundredfold each
# step until at the fourth they switch single ReLUs. mmsegmentation's own last loss changes by 7e-4
# and its norms by up to 1e-3 if its picture is multiplied by 1 + 1e-14. So only four are compared.
ADAMW = {"steps": 10, "warmup_steps": 3, "learning_rate": 1e-3}
SGD = {"steps": 5}


def optimise(
    name: str, changes: dict[str, float], count: int, patch: pytest.MonkeyPatch
) -> tuple[list[float], list[float], TrainState]:
    """Learning rates, losses and the last state of the first `count` steps, in float64."""
    config, _, params, stats = reference.network(name, "float64", **reference.NO_DROPOUT, **changes)
    # The pictures are normalised already, and stay float64.
    patch.setattr(steps, "normalise", lambda image, config: image)
    with reference.precision("float64"):
        image = reference.image(4, 64, 64, seed=3).astype("float64")
        batch = {"image": image, "label": reference.labels(4, 64, 64, seed=3)}
        opt_state = make_optimizer(config).init(params)
        state = TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state)
        state = jax.device_put(state)
        step = make_train_step(config).lower(state, batch).compile(reference.FAST_COMPILE)
        rates, losses = [], []
        for index in range(count):
            rates.append(float(learning_rate(config, index)))
            state, metrics = step(state, batch)
            losses.append(float(metrics.loss))
        return rates, losses, jax.device_get(state)


@pytest.mark.full
def test_ten_steps_of_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reference.TRAINING["optimisation"]["swin_nano"]
    rates, losses, state = optimise("swin_nano", ADAMW, 10, monkeypatch)
    assert rates == pytest.approx(expected["learning_rates"], rel=1e-12)
    assert losses == pytest.approx(expected["total_losses"], rel=1e-6)
    norms = reference.norms(state.params) | reference.norms(state.batch_stats)
    assert norms == pytest.approx(reference.renamed(expected["norm_after"], "swin_nano"), rel=1e-6)


@pytest.mark.full
def test_four_steps_of_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reference.TRAINING["optimisation"]["deeplabv3plus_r50"]
    rates, losses, _ = optimise("deeplabv3plus_r50", SGD, 4, monkeypatch)
    assert rates == pytest.approx(expected["learning_rates"][:4], rel=1e-12)
    assert losses == pytest.approx(expected["total_losses"][:4], rel=1e-6)
