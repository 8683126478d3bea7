"""Metrics between two log lines: their means, the line, and the end of a run that diverges."""

import math
import time
from datetime import timedelta

import jax
import numpy as np

from jaxparse.config import Config
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.optim import learning_rate
from jaxparse.training.steps import StepMetrics, TrainState


def summarise(
    config: Config, interval: list[StepMetrics], step: int, seconds: float
) -> dict[str, float]:
    """Means over the `interval` of steps up to `step`, which took `seconds`, for the log.

    Losses that overflowed in steps that float16 skipped are left out; the loss scale is the last.
    """

    def mean(*values: np.ndarray) -> float:
        finite = [value for value in values if math.isfinite(value)]
        return float(np.mean(finite)) if finite else math.nan

    scale = interval[-1].loss_scale
    means = jax.tree.map(mean, *(m._replace(loss_scale=None) for m in jax.device_get(interval)))
    return {name: value for name, value in means._asdict().items() if value is not None} | {
        **({} if scale is None else {"loss_scale": float(scale)}),
        "learning_rate": float(learning_rate(config, step - 1)),
        "seconds_per_step": seconds / len(interval),
    }


def log_line(config: Config, step: int, row: dict[str, float], estimate: bool = True) -> str:
    """One line for the log; with `estimate` the time left, which a terminal's bar shows."""
    left = timedelta(seconds=round((config.steps - step) * row["seconds_per_step"]))
    left = f"  {left} left" if estimate else ""
    # Of logits that differ the cross-entropy is never 0.
    nothing = "  nothing to learn: every pixel of the masks is 255 (ignored)"
    return (
        f"step {step}/{config.steps}  loss {row['loss']:.4f}  "
        f"accuracy {100 * row['pixel_accuracy']:.1f} %  learning rate {row['learning_rate']:.2g}  "
        f"{row['seconds_per_step']:.3g} s/step{left}{nothing if row['loss'] == 0 else ''}"
    )


class NonFiniteLossError(ValueError):
    """The loss, or a weight, became infinite or not a number."""


def require_finite(metrics: StepMetrics, step: int, checkpoints: Checkpoints) -> None:
    """Raises NonFiniteLossError if the loss of `step` is not a number.

    In float16 such a step was skipped and changed nothing: only a loss scale below 1 is too much.
    """
    if metrics.loss_scale is None:
        loss = float(metrics.loss)
        if not math.isfinite(loss):
            raise non_finite(f"the loss of step {step} is {loss}", checkpoints)
    elif metrics.loss_scale < 1:
        scale = float(metrics.loss_scale)
        fault = f"the gradients overflow at step {step} even with a loss scale of {scale}"
        raise non_finite(fault, checkpoints)


def require_finite_state(state: TrainState, step: int, checkpoints: Checkpoints) -> None:
    """Raises NonFiniteLossError if an array is not all finite: a finite loss can precede that."""
    for path, array in jax.tree.leaves_with_path(state):
        if not np.isfinite(np.asarray(array)).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise non_finite(f"{name} is not finite after step {step}", checkpoints)


def non_finite(what: str, checkpoints: Checkpoints) -> NonFiniteLossError:
    kept = checkpoints.latest_step()
    where = f"the checkpoint after step {kept} is kept" if kept else "there is no checkpoint yet"
    return NonFiniteLossError(
        f"{what}; {where}: check the data (python -m jaxparse.data --check DIR) or lower "
        "--learning-rate"
    )


class Interval:
    """Collects the metrics of each step until they are logged.

    The time starts when the first step has been compiled, so that no estimate counts compilation.
    """

    def __init__(self, config: Config, checkpoints: Checkpoints) -> None:
        self.config, self.checkpoints = config, checkpoints
        self.metrics: list[StepMetrics] = []
        self.started: float | None = None

    def begin(self) -> None:
        """Called before each step's batch is read: the first of an interval starts its time."""
        if not self.metrics and self.started is not None:
            self.started = time.perf_counter()

    def add(self, step: int, metrics: StepMetrics) -> None:
        """Adds a step that may still be running; raises NonFiniteLossError for the one before."""
        if self.started is None:
            self.started = time.perf_counter()
        if self.metrics:
            require_finite(self.metrics[-1], step - 1, self.checkpoints)
        self.metrics.append(metrics)

    def close(self, step: int) -> dict[str, float]:
        """The means up to `step`, for the log; waits for that step and empties the interval."""
        require_finite(self.metrics[-1], step, self.checkpoints)
        row = summarise(self.config, self.metrics, step, time.perf_counter() - self.started)
        self.metrics = []
        return row
