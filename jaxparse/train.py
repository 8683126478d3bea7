"""Training: `python -m jaxparse.train --exp NAME`, every field of Config a flag.

Data, model, state, loop. The loop never waits for the step it has just dispatched: it reads the
loss of the step before, so the next batch is decoded and copied while the device computes.
"""

import time
from collections import deque
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxparse.cli import INTERRUPTED, progress_bar, run
from jaxparse.config import (
    Config,
    parse_arguments,
    require_same_run,
    save_config,
)
from jaxparse.data.loaders import EvalLoader, make_eval_loader, make_train_loader
from jaxparse.devices import (
    Processes,
    StopVote,
    joined,
    make_mesh,
    require_shards,
    shard_batch,
    stop_requests,
    use_compilation_cache,
)
from jaxparse.files import sole_run, writing
from jaxparse.models.parameters import parameters_table
from jaxparse.plan import PlanOptions, compile_only, plan_run
from jaxparse.scoring.scores import Scores
from jaxparse.scoring.tables import scores_table
from jaxparse.training.checkpoint import Checkpoints, quiet_aftermath
from jaxparse.training.logs import MetricsLog, log_line, summarise
from jaxparse.training.steps import (
    StepMetrics,
    TrainState,
    make_train_step,
    require_finite,
    require_finite_state,
    start_state,
)
from jaxparse.training.validation import Evaluation, write_examples
from jaxparse.weights.files import BEST_EMA_WEIGHTS, BEST_WEIGHTS, find_init_weights


@dataclass(frozen=True)
class Options:
    """Flags of this command beside the fields of Config."""

    planning: PlanOptions = PlanOptions()
    processes: Processes = Processes()


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
