"""Training: `python -m jaxparse.train --exp NAME`, every field of Config a flag.

Data, model, state, loop. The loop never waits for the step it has just dispatched: it reads the
loss of the step before, so the next batch is decoded and copied while the device computes.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress, TaskID

from jaxparse.checkpoint import (
    BEST_EMA_WEIGHTS,
    BEST_WEIGHTS,
    Checkpoints,
    flatten,
    load_weights,
    save_weights,
)
from jaxparse.classes import NAMES
from jaxparse.cli import INTERRUPTED, progress_bar, run
from jaxparse.config import Config, differing_fields, parse_arguments, read_config, save_config
from jaxparse.data import EvalLoader, make_eval_loader, make_train_loader
from jaxparse.evaluate import evaluate, scores_table, write_examples
from jaxparse.logs import MetricsLog
from jaxparse.metrics import Scores, scores
from jaxparse.optim import learning_rate
from jaxparse.plan import PlanOptions, compile_only, parameters_table, plan_run
from jaxparse.steps import (
    StepMetrics,
    TrainState,
    init_state,
    make_eval_step,
    make_mesh,
    make_train_step,
    replicated,
    shard_batch,
    use_compilation_cache,
)


class NonFiniteLossError(ValueError):
    """The loss became infinite or not a number."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The list of SIGINT and SIGTERM received in the block; a second one ends the process."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def require_same_run(config: Config) -> None:
    """Raises ValueError, with the differing fields, if the workdir belongs to another run."""
    if not (Path(config.workdir) / "config.json").is_file():
        return
    differences = differing_fields(config, read_config(config.workdir))
    if differences:
        listed = ", ".join(f"{k} {there} (now {here})" for k, (here, there) in differences.items())
        raise ValueError(
            f"{config.workdir} belongs to a run with {listed}; "
            "give another --workdir, or the flags of that run to go on with it"
        )


def find_init_weights(config: Config, exp: str) -> Path | None:
    """The file that `config.init_weights` means, None for noise.

    Raises ValueError, with the command that makes it, if there is none.
    """
    if config.init_weights == "none":
        return None
    path, noise = Path(config.init_weights), "--init-weights none starts from noise"
    if path.suffix == ".safetensors":
        if not path.is_file():
            command = f"python -m jaxparse.convert_weights --exp {exp} --output {path}"
            raise ValueError(f"there is no file {path}; make it with {command}; {noise}")
        return path
    best = path / BEST_WEIGHTS
    if not best.is_file():
        fix = "train that run first, or give another RUN or FILE to --init-weights"
        raise ValueError(f"there is no {best}; {fix}; {noise}")
    return best


def start_state(config: Config, mesh: Mesh, weights: Path | None) -> TrainState:
    """The state before the first step: noise, or the file's weights as far as they reach."""
    state = init_state(config, mesh)
    if weights is None:
        return state
    loaded = load_weights(weights, config, state.params, state.batch_stats, allow_fresh=True)
    weights = dict(zip(("params", "batch_stats"), loaded, strict=True))
    weights = jax.device_put(weights, replicated(mesh))
    # Copied: the step donates both.
    ema = jax.tree.map(jnp.copy, weights) if state.ema else None
    return state._replace(**weights, ema=ema)


def summarise(
    config: Config, interval: list[StepMetrics], step: int, seconds: float
) -> dict[str, float]:
    """Means over the steps of an interval that ended with `step`, for the log.

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


def log_line(config: Config, step: int, row: dict[str, float]) -> str:
    """One line for the terminal."""
    left = timedelta(seconds=round((config.steps - step) * row["seconds_per_step"]))
    return (
        f"step {step}/{config.steps}  loss {row['loss']:.4f} "
        f"(decode {row['decode_loss']:.4f}, auxiliary {row['auxiliary_loss']:.4f})  "
        f"accuracy {100 * row['pixel_accuracy']:.2f} %  learning rate {row['learning_rate']:.3g}  "
        f"{row['seconds_per_step']:.3f} s/step  {left} left"
    )


def require_finite(metrics: StepMetrics, step: int, checkpoints: Checkpoints) -> None:
    """Raises NonFiniteLossError if the loss of `step` is not a number.

    In float16 such a step was skipped and changed nothing: only a loss scale below 1 is too much.
    """
    if metrics.loss_scale is None:
        fault = f"the loss of step {step} is {float(metrics.loss)}"
        well = math.isfinite(metrics.loss)
    else:
        scale = float(metrics.loss_scale)
        fault = f"the gradients overflow at step {step} even with a loss scale of {scale}"
        well = scale >= 1
    if well:
        return
    kept = checkpoints.latest_step()
    where = f"the checkpoint after step {kept} is kept" if kept else "there is no checkpoint yet"
    raise NonFiniteLossError(
        f"{fault}; {where}: look at the data "
        "(python -m jaxparse.data --check DIR) or lower --learning-rate"
    )


class Evaluation:
    """Scores the network on the val pictures; keeps the weights of the best evaluation.

    Likewise, if the run has one, their moving average: `val_ema` in the log.
    """

    def __init__(self, config: Config, loader: EvalLoader, log: MetricsLog) -> None:
        self.config, self.loader, self.log = config, loader, log
        self.eval_step = make_eval_step(config)

    def __call__(self, state: TrainState, step: int, advance: Callable[[int], object]) -> Scores:
        weights = {"params": state.params, "batch_stats": state.batch_stats}
        if state.ema:
            self._score(state.ema, step, advance, "val_ema", BEST_EMA_WEIGHTS)
        return self._score(weights, step, advance, "val", BEST_WEIGHTS)

    def _score(
        self,
        weights: dict[str, dict[str, Any]],
        step: int,
        advance: Callable[[int], object],
        name: str,
        file: str,
    ) -> Scores:
        confusion = evaluate(self.eval_step, **weights, loader=self.loader, advance=advance)
        result = scores(confusion)
        means = result.means()
        if means["mIoU"] > self.log.best(f"{name}/mIoU"):
            source = f"step {step} of {self.config.workdir}: {name} mIoU {100 * means['mIoU']:.2f}"
            arrays = flatten(weights["params"]) | flatten(weights["batch_stats"])
            path = Path(self.config.workdir) / file
            save_weights(path, jax.device_get(arrays), self.config, source)
        if name == "val":
            # First, so that who reads along finds them once the means are there. Without the
            # classes that do not occur: JSON has no NaN.
            per_class = zip(NAMES, result.iou, strict=True)
            self.log.write(step, "IoU", {k: float(v) for k, v in per_class if not math.isnan(v)})
        self.log.write(step, name, means)
        return result


def show_progress(bar: Progress, task: TaskID, done: int) -> None:
    """Moves a bar that hides when it is full."""
    bar.update(task, completed=done, visible=done < bar.tasks[task].total)


def evaluation_line(step: int, result: Scores) -> str:
    """One line for the terminal."""
    means = "  ".join(f"{name} {100 * value:.2f}" for name, value in result.means().items())
    return f"evaluation after step {step}: {means}"


def finish(
    config: Config, state: TrainState, result: Scores, loader: EvalLoader, console: Console
) -> None:
    """The tables of the last evaluation, a picture of predictions, and what to do next."""
    examples = Path(config.workdir) / "examples.png"
    write_examples(examples, config, state.params, state.batch_stats, loader)
    console.print(scores_table(result))
    console.print(f"predictions beside truth: {examples}")
    console.print(f"best weights: {Path(config.workdir) / BEST_WEIGHTS}")
    if state.ema:
        console.print(f"best moving average of the weights: {config.workdir}/{BEST_EMA_WEIGHTS}")
    console.print(
        f"masks of your pictures: python -m jaxparse.predict --workdir {config.workdir} "
        "--input PICTURES --output MASKS --overlay",
        soft_wrap=True,
    )


def train(config: Config, console: Console, exp: str = "NAME") -> int:
    """Runs `config` to its end, on from where its workdir stopped; returns the exit code.

    `exp` is the experiment's name, for messages.

    Raises ValueError for bad data, weights, flags, or a workdir of another run.
    """
    require_same_run(config)
    weights = find_init_weights(config, exp)
    mesh, processes = make_mesh(), (jax.process_index(), jax.process_count())
    part = config.batch_size // config.accumulate_steps
    if part % mesh.size:
        raise ValueError(
            f"{part} pictures at a time (batch_size / accumulate_steps) are no multiple of "
            f"{mesh.size} devices; give another --batch-size"
        )
    loader = make_train_loader(config, *processes)
    val_loader = make_eval_loader(config, "val", *processes)
    state = start_state(config, mesh, weights)
    console.print(parameters_table(state))

    save_config(config, config.workdir)
    train_step = make_train_step(config)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(closing(Checkpoints(config.workdir)))
        first = step = checkpoints.latest_step() or 0
        if first:
            state = checkpoints.restore(state, loader)
            console.print(f"going on after step {first} of {config.workdir}")
        is_main = jax.process_index() == 0
        log = stack.enter_context(closing(MetricsLog(config.workdir, first, is_main)))
        evaluation = Evaluation(config, val_loader, log)
        stops = stack.enter_context(stop_requests())
        bar = stack.enter_context(progress_bar(console))
        training = bar.add_task("training", total=config.steps, completed=first)
        evaluating = bar.add_task("evaluating", total=len(val_loader.source), visible=False)
        interval: list[StepMetrics] = []
        started = time.perf_counter()
        for step in range(first + 1, config.steps + 1):
            state, metrics = train_step(state, shard_batch(next(loader), mesh))
            if interval:
                require_finite(interval[-1], step - 1, checkpoints)
            interval.append(metrics)
            stopping = bool(stops)
            evaluates = step % config.eval_every == 0 or step == config.steps
            if step % config.log_every == 0 or evaluates or stopping:
                require_finite(metrics, step, checkpoints)
                row = summarise(config, interval, step, time.perf_counter() - started)
                log.write(step, "train", row)
                console.print(log_line(config, step, row), soft_wrap=True, highlight=False)
                interval = []
            if evaluates:
                result = evaluation(state, step, partial(show_progress, bar, evaluating))
                console.print(evaluation_line(step, result), soft_wrap=True, highlight=False)
            if evaluates or stopping:
                checkpoints.save(step, state, loader)
            if not interval:
                started = time.perf_counter()
            bar.update(training, completed=step)
            if stopping:
                break
    if first == config.steps:
        console.print(f"{config.workdir} is already at its last step, {first}")
    elif step < config.steps:
        console.print(f"stopped and saved after step {step}; the same command goes on from there")
        return INTERRUPTED
    else:
        finish(config, state, result, val_loader, console)
    return 0


def main() -> int:
    """Command line: `--exp NAME`, every field of its Config, and `--plan`."""
    about = ("python -m jaxparse.train", "Trains a network.")
    exp, config, options = parse_arguments(*about, PlanOptions())
    if options.plan:
        compile_only()
        return plan_run(config, exp, options.device, Console())
    if options != PlanOptions():
        raise ValueError("--device is the device of a --plan; training takes those that JAX finds")
    use_compilation_cache()
    return train(config, Console(), exp)


if __name__ == "__main__":
    run(main)
