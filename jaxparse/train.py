"""Training: `python -m jaxparse.train --exp NAME`, every field of Config a flag.

Data, model, state, loop. The loop never waits for the step it has just dispatched: it reads the
loss of the step before, so the next batch is decoded and copied while the device computes.
"""

import math
import time
from collections import deque
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxparse.checkpoint import Checkpoints
from jaxparse.cli import INTERRUPTED, progress_bar, run
from jaxparse.config import Config, differing_fields, parse_arguments, read_config, save_config
from jaxparse.data.loaders import EvalLoader, make_eval_loader, make_train_loader
from jaxparse.distributed import Processes, StopVote, joined
from jaxparse.faults import quiet_aftermath, sole_run, stop_requests, writing
from jaxparse.logs import MetricsLog
from jaxparse.models.parameters import parameters_table
from jaxparse.optim import learning_rate
from jaxparse.plan import PlanOptions, compile_only, plan_run
from jaxparse.scoring.scores import Scores
from jaxparse.scoring.tables import scores_table
from jaxparse.steps import (
    StepMetrics,
    TrainState,
    init_state,
    make_mesh,
    make_train_step,
    replicated,
    require_shards,
    shard_batch,
    use_compilation_cache,
)
from jaxparse.validation import Evaluation, write_examples
from jaxparse.weights.files import BEST_EMA_WEIGHTS, BEST_WEIGHTS, find_init_weights, load_weights


@dataclass(frozen=True)
class Options:
    """Flags of this command beside the fields of Config."""

    planning: PlanOptions = PlanOptions()
    processes: Processes = Processes()


class NonFiniteLossError(ValueError):
    """The loss, or a weight, became infinite or not a number."""


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
        f"{what}; {where}: look at the data (python -m jaxparse.data --check DIR) or lower "
        "--learning-rate"
    )


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

    Raises ValueError for bad data, weights, flags, or a workdir of another run or in use by one;
    OSError if the workdir cannot be written.
    """
    weights = find_init_weights(config, exp)
    mesh = make_mesh()
    require_shards(config.batch_size // config.accumulate_steps, mesh)
    with sole_run(config.workdir) if jax.process_index() == 0 else nullcontext():
        require_same_run(config)
        return train_alone(config, console, mesh, weights)


def train_alone(config: Config, console: Console, mesh: Mesh, weights: Path | None) -> int:
    """`train` once the workdir is this run's."""
    processes, is_main = (jax.process_index(), jax.process_count()), jax.process_index() == 0
    skipped: deque[str] = deque()
    warn = skipped.append if config.on_bad_data == "skip" else None
    loader = make_train_loader(config, *processes, warn)
    val_loader = make_eval_loader(config, "val", *processes, warn)
    state = start_state(config, mesh, weights)
    console.print(parameters_table(state.params))

    with writing("config.json", config.workdir, "what was there is kept"):
        if is_main:
            save_config(config, config.workdir)
    train_step = make_train_step(config)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(closing(Checkpoints(config.workdir)))
        state, first, faults = checkpoints.restore(state, loader)
        for fault in faults:
            console.print(f"warning: {fault}", soft_wrap=True, highlight=False)
        if first:
            console.print(f"going on after step {first} of {config.workdir}")
        step, stopping = first, False
        log = stack.enter_context(closing(MetricsLog(config.workdir, first, is_main)))
        stops, vote = stack.enter_context(stop_requests()), StopVote(mesh)
        bar = stack.enter_context(progress_bar(console))
        training = bar.add_task("training", total=config.steps, completed=first)
        evaluation = Evaluation(config, val_loader, log, bar, stops)
        missing = evaluation.is_missing(first)
        result = evaluation(state, first) if missing else None
        interval: list[StepMetrics] = []
        started = time.perf_counter()
        while step < config.steps and not (missing and result is None):
            step += 1
            checkpoints.check()
            state, metrics = train_step(state, shard_batch(next(loader), mesh))
            if interval:
                require_finite(interval[-1], step - 1, checkpoints)
            interval.append(metrics)
            stopping = vote(bool(stops), step, metrics.loss)
            evaluates = evaluation.is_due(step)
            if step % config.log_every == 0 or evaluates or stopping:
                require_finite(metrics, step, checkpoints)
                row = summarise(config, interval, step, time.perf_counter() - started)
                log.write(step, "train", row)
                console.print(log_line(config, step, row), soft_wrap=True, highlight=False)
                interval = []
            if evaluates or stopping:
                # Before the evaluation, which may take long: a run that ends there goes on there.
                require_finite_state(state, step, checkpoints)
                checkpoints.save(step, state, loader)
            missing = evaluates
            result = evaluation(state, step) if evaluates and not stopping else None
            while skipped:
                log.note(step, line := skipped.popleft())
                console.print(f"warning: {line}", soft_wrap=True, highlight=False)
            if not interval:
                started = time.perf_counter()
            bar.update(training, completed=step)
            if stopping:
                break
    if result is not None:
        if is_main:
            finish(config, state, result, val_loader, console)
    elif stops or stopping:
        console.print(f"stopped and saved after step {step}; the same command goes on from there")
        return INTERRUPTED
    else:
        console.print(f"{config.workdir} is already at its last step, {first}")
    return 0


def main() -> int:
    """Command line: `--exp NAME`, every field of its Config, and `Options`."""
    about = ("python -m jaxparse.train", "Trains a network.")
    exp, config, options = parse_arguments(*about, Options())
    if options.planning.plan:
        compile_only()
        return plan_run(config, exp, options.planning.device, Console())
    if options.planning != PlanOptions():
        raise ValueError("--device is the device of a --plan; training takes those that JAX finds")
    use_compilation_cache()
    quiet_aftermath()
    with joined(options.processes):
        return train(config, Console(quiet=jax.process_index() > 0), exp)


if __name__ == "__main__":
    run(main)
