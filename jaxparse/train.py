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

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from jaxparse.checkpoint import BEST_WEIGHTS, Checkpoints, flatten, load_weights, save_weights
from jaxparse.cli import INTERRUPTED, progress_bar, run
from jaxparse.config import Config, differing_fields, parse_with_flags, read_config, save_config
from jaxparse.data import EvalLoader, make_eval_loader, make_train_loader
from jaxparse.distributed import Processes, StopVote, joined
from jaxparse.evaluate import evaluate, scores_table, write_examples
from jaxparse.logs import MetricsLog
from jaxparse.metrics import Scores, scores
from jaxparse.optim import learning_rate
from jaxparse.steps import (
    StepMetrics,
    TrainState,
    init_state,
    make_eval_step,
    make_mesh,
    make_train_step,
    replicated,
    require_shards,
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


def parameters_table(state: TrainState) -> Table:
    """Parameters by part of the network."""
    counts = {
        part: sum(array.size for array in flatten(tree).values())
        for part, tree in state.params.items()
    }
    table = Table("part", title="trainable parameters")
    table.add_column("parameters", justify="right")
    for part, count in counts.items():
        table.add_row(part, f"{count:,}")
    table.add_section()
    table.add_row("total", f"{sum(counts.values()):,}")
    return table


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
    params, batch_stats = jax.device_put(loaded, replicated(mesh))
    return state._replace(params=params, batch_stats=batch_stats)


def summarise(
    config: Config, interval: list[StepMetrics], step: int, seconds: float
) -> dict[str, float]:
    """Means over the steps of an interval that ended with `step`, for the log."""
    means = jax.tree.map(lambda *values: float(np.mean(values)), *jax.device_get(interval))
    return means._asdict() | {
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
    """Raises NonFiniteLossError if the loss of `step` is not a number."""
    loss = float(metrics.loss)
    if math.isfinite(loss):
        return
    kept = checkpoints.latest_step()
    where = f"the checkpoint after step {kept} is kept" if kept else "there is no checkpoint yet"
    raise NonFiniteLossError(
        f"the loss of step {step} is {loss}; {where}: look at the data "
        "(python -m jaxparse.data --check DIR) or lower --learning-rate"
    )


class Evaluation:
    """Scores the network on the val pictures; keeps the weights of the best evaluation."""

    def __init__(self, config: Config, loader: EvalLoader, log: MetricsLog) -> None:
        self.config, self.loader, self.log = config, loader, log
        self.eval_step = make_eval_step(config)

    def __call__(self, state: TrainState, step: int, advance: Callable[[int], object]) -> Scores:
        confusion = evaluate(self.eval_step, state.params, state.batch_stats, self.loader, advance)
        result = scores(confusion)
        means = result.means()
        if self.log.is_main and means["mIoU"] > self.log.best("val/mIoU"):
            source = f"step {step} of {self.config.workdir}: val mIoU {100 * means['mIoU']:.2f}"
            save_weights(
                Path(self.config.workdir) / BEST_WEIGHTS,
                jax.device_get(flatten(state.params) | flatten(state.batch_stats)),
                self.config,
                source,
            )
        self.log.write(step, "val", means)
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
    is_main = jax.process_index() == 0
    require_shards(config, mesh)
    loader = make_train_loader(config, *processes)
    val_loader = make_eval_loader(config, "val", *processes)
    state = start_state(config, mesh, weights)
    console.print(parameters_table(state))

    if is_main:
        save_config(config, config.workdir)
    train_step = make_train_step(config)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(closing(Checkpoints(config.workdir)))
        first = step = checkpoints.latest_step() or 0
        if first:
            state = checkpoints.restore(state, loader)
            console.print(f"going on after step {first} of {config.workdir}")
        log = stack.enter_context(closing(MetricsLog(config.workdir, first, is_main)))
        evaluation = Evaluation(config, val_loader, log)
        stops, vote = stack.enter_context(stop_requests()), StopVote(mesh)
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
            stopping = vote(bool(stops), step, metrics.loss)
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
    elif is_main:
        finish(config, state, result, val_loader, console)
    return 0


def main() -> int:
    """Command line: `--exp NAME` and every field of its Config."""
    use_compilation_cache()
    about = "python -m jaxparse.train", "Trains a network."
    exp, config, processes = parse_with_flags(*about, Processes)
    with joined(processes):
        return train(config, Console(quiet=jax.process_index() > 0), exp)


if __name__ == "__main__":
    run(main)
