from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.config import Config
from jaxparse.training import interval as interval_module
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.interval import (
    Interval,
    NonFiniteLossError,
    log_line,
    require_finite,
    summarise,
)
from jaxparse.training.steps import StepMetrics
from tests.refusal import refuses
from tests.runs import CONFIG


def test_overflow_that_no_loss_scale_cures_ends_the_run(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    metrics = StepMetrics(*[jnp.float32(np.nan)] * 4, loss_scale=jnp.float32(1))
    require_finite(metrics, 7, checkpoints)
    with refuses("step 8", "loss scale of 0.5", "no checkpoint yet", error=NonFiniteLossError):
        require_finite(metrics._replace(loss_scale=jnp.float32(0.5)), 8, checkpoints)


def test_log_leaves_out_losses_that_overflowed() -> None:
    steps = [StepMetrics(*[jnp.float32(x)] * 4, loss_scale=jnp.float32(8)) for x in (2, np.inf, 4)]
    row = summarise(CONFIG, steps, 3, 1.5)
    assert (row["loss"], row["loss_scale"], row["seconds_per_step"]) == (3, 8, 0.5)
    assert "loss_scale" not in summarise(CONFIG, [steps[0]._replace(loss_scale=None)], 1, 1)


def test_log_line() -> None:
    config = Config(steps=160_000)
    row = {
        "loss": 1.5,
        "decode_loss": 1.1,
        "auxiliary_loss": 0.4,
        "pixel_accuracy": 0.875,
        "learning_rate": 5.9e-5,
        "seconds_per_step": 0.25,
    }
    assert log_line(config, 100, row) == (
        "step 100/160000  loss 1.5000  accuracy 87.5 %  learning rate 5.9e-05  "
        "0.25 s/step  11:06:15 left"
    )
    assert log_line(config, 100, row, estimate=False).endswith("  0.25 s/step")


def test_estimate_does_not_count_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step compiles for 100 seconds; then each step takes 2 and an evaluation 50."""
    now = [0.0]
    monkeypatch.setattr(interval_module.time, "perf_counter", lambda: now[0])
    interval = Interval(CONFIG, Checkpoints(tmp_path))
    figures = []
    for step, seconds in ((1, 100), (2, 2), (3, 2), (4, 2), (5, 2)):
        interval.begin()
        now[0] += seconds
        interval.add(step, StepMetrics(*[jnp.float32(1)] * 4))
        if step in (3, 5):
            figures.append(interval.close(step)["seconds_per_step"])
            now[0] += 50
    assert figures == [4 / 3, 2]
