"""Training: `python -m jaxparse.train --exp NAME`, every field of Config a flag.

Data, model, state, loop. The loop never waits for the step it has just dispatched: it reads the
loss of the step before, so the next batch is decoded and copied while the device computes.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("train")

import re
import runpy
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxparse import cli, cuda
from jaxparse.cli import show
from jaxparse.config import SYNTHETIC, Config, parse_arguments, require_same_run, save_config
from jaxparse.data.identity import require_same_data, save_identity
from jaxparse.data.loaders import EvalLoader, make_train_loader
from jaxparse.data.mirrored import mirrored_line
from jaxparse.data.suspicions import data_warnings
from jaxparse.devices import (
    ONE_PROCESS,
    StopVote,
    device_line,
    joined,
    make_mesh,
    require_shards,
    shard_batch,
    stop_requests,
    unused_gpu,
    use_compilation_cache,
)
from jaxparse.files import require_writable_folder, sole_run, writing
from jaxparse.models import require_enough_pictures
from jaxparse.models.parameters import parameters_table
from jaxparse.scoring.scores import Scores
from jaxparse.scoring.tables import scores_table
from jaxparse.training.checkpoint import Checkpoints, has_checkpoint, quiet_aftermath
from jaxparse.training.gpus import key_of
from jaxparse.training.interval import Interval, log_line, require_finite_state
from jaxparse.training.logs import MetricsLog
from jaxparse.training.steps import TrainState, make_train_step, start_state
from jaxparse.training.validation import Validation, write_examples
from jaxparse.weights.conversion import start_line
from jaxparse.weights.files import BEST_EMA_WEIGHTS, BEST_WEIGHTS
from jaxparse.weights.find import find_init_weights


def finish(
    config: Config, state: TrainState, scores: Scores, loader: EvalLoader, console: Console
) -> None:
    """The tables of the last evaluation, a picture of predictions, and what to do next."""
    workdir = Path(config.workdir)
    examples = workdir / "examples.png"
    write_examples(examples, config, state.params, state.batch_stats, loader)
    console.print(scores_table(scores))
    show(console, f"pictures, masks and predictions: {examples}")
    if not (workdir / BEST_WEIGHTS).exists():
        show(console, f"no best weights: no evaluation of {workdir} could be scored")
        return
    show(console, f"best weights: {workdir / BEST_WEIGHTS}")
    if state.ema:
        show(console, f"best moving average of the weights: {workdir / BEST_EMA_WEIGHTS}")
    words = ("--weights", workdir, "--input", "PICTURES", "--output", "MASKS", "--overlay")
    show(console, f"masks of your pictures: {cli.line_for_shell('predict', *words)}")


@contextmanager
def advice_on_memory(exp: str) -> Iterator[None]:
    """Raises ValueError naming `jaxparse.plan` where the block needs more than the device has."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(cuda.OUT_OF_MEMORY, str(error)):
            raise
        device = key_of(jax.local_devices()[0].device_kind)
        command = cli.line_for_shell("plan", "--exp", exp, "--device", device)
        raise ValueError(
            f"the training step does not fit the device's memory; {command}, with the run's other "
            "flags, finds what makes it fit, such as --precision bfloat16 --remat"
        ) from error


def train(config: Config, console: Console, exp: str = "NAME") -> int:
    """Runs `config` to its end, or resumes it where its workdir stopped; returns the exit code.

    `exp` is the experiment's name, for messages.

    Raises ValueError for bad data, weights, flags, or a workdir of another run or in use by one;
    OSError if the workdir cannot be written.
    """
    require_enough_pictures(config)
    require_writable_folder(Path(config.workdir), "--workdir")
    # A run that resumes needs its checkpoint, not what it once started from.
    weights = None if has_checkpoint(config.workdir) else find_init_weights(config, exp)
    mesh = make_mesh()
    require_shards(config.batch_size // config.accumulate_steps, mesh)
    show(console, device_line())
    if advice := unused_gpu():
        show(console, f"warning: {advice}")
    with sole_run(config.workdir) if jax.process_index() == 0 else nullcontext():
        require_same_run(config)
        require_same_data(config)
        with advice_on_memory(exp):
            return run_steps(config, console, mesh, weights)


def data_lines(config: Config) -> list[str]:
    """What to know of the data and its classes before the first step."""
    lines = []
    if config.data_dir != SYNTHETIC:
        lines += data_warnings(config.data_dir, config.classes, config.labels_are)
    if config.mirrored_masks != "none":
        lines.append(mirrored_line(config))
    if config.mirror_probability and (line := config.classes.halves_line):
        lines.append(f"warning: {line}")
    return lines


def run_steps(config: Config, console: Console, mesh: Mesh, weights: Path | None) -> int:
    """`train` once the workdir is this run's."""
    processes, is_main = (jax.process_index(), jax.process_count()), jax.process_index() == 0
    skipped: deque[str] = deque()
    warn = skipped.append if config.on_bad_data == "skip" else None
    loader = make_train_loader(config, *processes, warn)
    val_loader = EvalLoader(config, "val", *processes, warn)
    for line in data_lines(config) if is_main else ():
        show(console, line)

    train_step = make_train_step(config)
    if is_main and weights and (line := start_line(weights, config)):
        show(console, line)
    state = start_state(config, mesh, weights)
    console.print(parameters_table(state.params))

    with writing("config.json", config.workdir, "its old content is kept"):
        if is_main:
            save_identity(config)
            save_config(config, config.workdir)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(closing(Checkpoints(config.workdir)))
        state, first, faults = checkpoints.restore(state, loader)
        log = stack.enter_context(closing(MetricsLog(config.workdir, first, is_main)))
        for line in [*(f"warning: {fault}" for fault in faults), *log.notices]:
            show(console, line)
        if first:
            show(console, f"resuming {config.workdir} after step {first}")
        stops, vote = stack.enter_context(stop_requests()), StopVote(mesh)
        bar = stack.enter_context(cli.progress_bar(console))
        training = bar.add_task(cli.COMPILING, start=False, total=config.steps, completed=first)
        validation = Validation(config, val_loader, log, bar, stops)
        interval = Interval(config, checkpoints)

        # The evaluation that a stop or a kill has cut off.
        step, scores = first, validation(state, first) if validation.is_missing(first) else None
        stopping = validation.is_missing(first)
        while step < config.steps and not stopping:
            step, scores = step + 1, None
            checkpoints.check()
            interval.begin()
            state, metrics = train_step(state, shard_batch(next(loader), mesh))
            interval.add(step, metrics)
            bar.start_task(training)
            stopping, evaluates = vote(bool(stops), step, metrics.loss), validation.is_due(step)
            if step % config.log_every == 0 or evaluates or stopping:
                row = interval.close(step)
                log.write(step, "train", row)
                show(console, log_line(config, step, row, estimate=not console.is_terminal))
            if evaluates or stopping:
                # Saved before the evaluation: a run killed meanwhile resumes with the evaluation.
                require_finite_state(state, step, checkpoints)
                checkpoints.save(step, state, loader)
            if evaluates and not stopping:
                scores = validation(state, step)
                stopping = scores is None
            while skipped:
                log.note(step, line := skipped.popleft())
                show(console, f"warning: {line}")
            bar.update(training, completed=step, description="training")

    if scores is not None:
        if is_main:
            finish(config, state, scores, val_loader, console)
    elif stopping:
        show(console, f"stopped and saved after step {step}; run the same command to resume")
        return cli.INTERRUPTED
    else:
        show(console, f"{config.workdir} is already at its last step, {first}")
    return 0


def main() -> int:
    """Command line: `--exp NAME`, every field of its Config, and `Processes`."""
    if "--plan" in sys.argv:
        print("train --plan is now a command of its own: python -m jaxparse.plan", file=sys.stderr)
        sys.argv.remove("--plan")
        return runpy.run_module("jaxparse.plan")["main"]()
    about = (cli.prog("train"), "Trains a network, or resumes the run in its workdir.")
    exp, config, processes = parse_arguments(*about, ONE_PROCESS)
    use_compilation_cache()
    quiet_aftermath()
    with joined(processes):
        return train(config, Console(quiet=jax.process_index() > 0), exp)
