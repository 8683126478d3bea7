"""Evaluation within a training run: the log's val rows and the weights of the best step."""

from pathlib import Path

import jax
from rich.progress import Progress

from jaxparse.checkpoint import BEST_WEIGHTS, flatten, save_weights
from jaxparse.config import Config
from jaxparse.data import EvalLoader
from jaxparse.evaluate import evaluate
from jaxparse.faults import writing
from jaxparse.logs import MetricsLog
from jaxparse.metrics import Scores, scores
from jaxparse.steps import TrainState, make_eval_step


class StoppedError(Exception):
    """An evaluation was broken off: the run is to stop."""


class Evaluation:
    """Scores the network on the val pictures; keeps the weights of the best evaluation."""

    def __init__(
        self, config: Config, loader: EvalLoader, log: MetricsLog, bar: Progress, stops: list[int]
    ) -> None:
        self.config, self.loader, self.log, self.bar, self.stops = config, loader, log, bar, stops
        self.eval_step = make_eval_step(config)
        self.task = bar.add_task("evaluating", total=len(loader.source), visible=False)

    def is_due(self, step: int) -> bool:
        """Whether the network is evaluated after `step`."""
        return step % self.config.eval_every == 0 or step == self.config.steps

    def is_missing(self, step: int) -> bool:
        """Whether the run ended between the checkpoint after `step` and its evaluation's end."""
        return step > 0 and self.is_due(step) and not self.log.has("val/mIoU", step)

    def __call__(self, state: TrainState, step: int) -> Scores | None:
        """The scores after `step`, None if the run is to stop meanwhile."""
        try:
            confusion = evaluate(
                self.eval_step, state.params, state.batch_stats, self.loader, self.advance
            )
        except StoppedError:
            return None
        result = scores(confusion)
        means = result.means()
        if means["mIoU"] > self.log.best("val/mIoU"):
            self.save_best(state, f"step {step} of {self.config.workdir}", means["mIoU"])
        self.log.write(step, "val", means)
        self.bar.console.print(evaluation_line(step, result), soft_wrap=True, highlight=False)
        return result

    def advance(self, done: int) -> None:
        """Moves the bar, which hides when it is full."""
        self.bar.update(self.task, completed=done, visible=done < len(self.loader.source))
        # Of several processes one alone must not leave.
        if self.stops and jax.process_count() == 1:
            raise StoppedError

    def save_best(self, state: TrainState, origin: str, miou: float) -> None:
        """Writes the weights; `origin` says of which step and run they are."""
        path = Path(self.config.workdir) / BEST_WEIGHTS
        arrays = jax.device_get(flatten(state.params) | flatten(state.batch_stats))
        with writing(BEST_WEIGHTS, path.parent, "the one before and the checkpoints are kept"):
            save_weights(path, arrays, self.config, f"{origin}: val mIoU {100 * miou:.2f}")


def evaluation_line(step: int, result: Scores) -> str:
    """One line for the terminal."""
    means = "  ".join(f"{name} {100 * value:.2f}" for name, value in result.means().items())
    return f"evaluation after step {step}: {means}"
