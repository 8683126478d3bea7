"""Real runs: host time and the device's idle share, kill and resume, and how runs end.

Each run is `jaxparse.train` in a process of its own, but for the first, which is watched from
within.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks.gpu.cases import QUICK, ROOT, Case, Figures, last_line
from benchmarks.gpu.kernels import busy, kernels, read_trace
from jaxparse import cli
from jaxparse.config import Config, load_experiment, read_config
from jaxparse.devices import make_mesh, use_compilation_cache
from jaxparse.synthetic import write_faces

# A run on drawn faces that are made on the way: it needs no files.
DRAWN = {"data_dir": "synthetic", "synthetic_train_count": 16, "synthetic_val_count": 2}
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
FIXED = f"{DETERMINISTIC} --xla_gpu_autotune_level=0"
GRAIN = "grain is missing: carry its wheels (docs/measured.md) or pip install grain"
TRACED = 20  # steps


def require_grain() -> None:
    """The loader's library; the other parts do without."""
    if find_spec("grain") is None:
        raise SystemExit(GRAIN)


# (e) A run from files


def run_cases(quick: bool, size: int, data: Path, steps: int) -> Iterator[Case]:
    arguments = {"experiment": QUICK if quick else "swin_t", "size": size}
    arguments |= {"batch": 2 if quick else 16, "precision": "bfloat16", "steps": steps}
    label = f"{arguments['experiment']}, bfloat16, batch {arguments['batch']}, {steps} steps"
    yield Case(label, "runs:from_files", arguments | {"data": str(data)})


class Watched:
    """A training step that measures the host between its calls, and traces the device for some."""

    def __init__(self, step: Callable, folder: Path, steps: int) -> None:
        self.step, self.folder = step, folder
        self.traced = range(steps // 2, steps // 2 + TRACED)
        self.calls = 0
        self.clocks: list[tuple[float, float]] = []  # CPU seconds of this thread, of all
        self.wall = 0.0

    def __call__(self, state: Any, batch: Any) -> Any:  # noqa: ANN401
        if self.calls == self.traced.start:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self.folder)
            self.wall = -time.perf_counter()
        if self.calls == self.traced.stop:
            jax.block_until_ready(state)
            self.wall += time.perf_counter()
            jax.profiler.stop_trace()
        if self.calls < self.traced.start:
            self.clocks.append((time.thread_time(), time.process_time()))
        self.calls += 1
        return self.step(state, batch)

    def figures(self) -> Figures:
        """Without the first quarter, in which programs are compiled."""
        begin, end = self.clocks[len(self.clocks) // 2], self.clocks[-1]
        steps = len(self.clocks) - 1 - len(self.clocks) // 2
        thread, process = (1000 * (b - a) / steps for a, b in zip(begin, end, strict=True))
        ran = kernels(read_trace(self.folder))
        return {
            "main thread CPU ms/step": thread,
            "all threads CPU ms/step": process,
            "idle %": 100 * (1 - busy(ran) / 1e6 / self.wall),
        }


def from_files(
    experiment: str, size: int, batch: int, precision: str, steps: int, data: str
) -> Figures:
    """A run of `jaxparse.train` with its evaluation at the end, on the pictures in `data`."""
    require_grain()
    from jaxparse import train as command

    with tempfile.TemporaryDirectory() as name:
        folder, watched = Path(name), []
        if not Path(data).is_dir():
            write_faces(folder / "drawn", 64, 8, size)
        config = replace(
            load_experiment(experiment),
            **{"image_size": size, "batch_size": batch, "precision": precision, "steps": steps},
            **{"eval_every": steps, "init_weights": "none", "workdir": str(folder / "run")},
            data_dir=data if Path(data).is_dir() else str(folder / "drawn"),
            num_workers=min(8, os.cpu_count() or 1),
        )
        make = command.make_train_step

        def make_watched(config: Config) -> Watched:
            watched.append(Watched(make(config), folder / "trace", steps))
            return watched[0]

        command.make_train_step = make_watched
        started = time.perf_counter()
        with (folder / "screen").open("w") as screen:
            command.train(config, Console(file=screen, width=200))
        whole = time.perf_counter() - started
        rows = read_rows(Path(config.workdir))
        losses = [row["train/loss"] for row in rows if "train/loss" in row]
        scores = [row["val/mIoU"] for row in rows if "val/mIoU" in row]
        return {
            "data": data if Path(data).is_dir() else "drawn",
            "ms/step": milliseconds(Path(config.workdir)),
            **watched[0].figures(),
            "loss first, last": [losses[0], losses[-1]],
            "val mIoU": scores[-1] if scores else None,
            "whole run s": whole,
        }


def read_rows(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


# Runs in processes


class Run:
    """A process of `jaxparse.train` in `workdir`, its screen in WORKDIR.log."""

    def __init__(
        self, workdir: Path, experiment: str, changes: dict[str, Any], environment: dict[str, str]
    ) -> None:
        """On drawn faces, from scratch; `changes` are to the experiment's config."""
        changes |= DRAWN | {"workdir": str(workdir), "log_every": 1, "init_weights": "none"}
        self.log = workdir.with_suffix(".log")
        environment = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "programs")} | environment
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.runs", experiment, json.dumps(changes)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | environment,
            )

    def wait_for(self, text: str) -> None:
        """Until the screen shows the text. Raises SystemExit if the run ends before."""
        while text not in self.log.read_text():
            if self.process.poll() is not None:
                raise SystemExit(f"the run ended: {last_line(self.log.read_text())}")
            time.sleep(0.02)

    def ended(self) -> Figures:
        """Waits for the end: the exit code and the last line."""
        code = self.process.wait()
        return {"exit code": code, "last line": last_line(self.log.read_text())}


def main() -> None:
    """In the process of a run: what `jaxparse.train` does, without its command line."""
    require_grain()
    from jaxparse.train import train
    from jaxparse.training.checkpoint import quiet_aftermath

    config = replace(load_experiment(sys.argv[1]), **json.loads(sys.argv[2]))
    use_compilation_cache()
    quiet_aftermath()
    cli.run(lambda: train(config, Console(width=200), sys.argv[1]))


# (f) Kill and resume


def resume_cases(quick: bool, size: int) -> Iterator[Case]:
    variants = (
        ("as it is", "", True),
        ("deterministic operations", DETERMINISTIC, True),
        ("compiled again at each start", "", False),
        ("deterministic, not autotuned, compiled again", FIXED, False),
    )
    networks = (QUICK,) if quick else ("swin_t", "deeplabv3plus_r50_20k")
    for name, flags, cached in variants[:1] if quick else variants:
        for network in networks:
            arguments = {"experiment": network, "size": size, "cached": cached}
            arguments |= {"steps": 9 if quick else 60}
            yield Case(f"{network}, {name}", "runs:resume", arguments, flags)


def resume(experiment: str, size: int, cached: bool, steps: int) -> Figures:
    """A run killed behind its second checkpoint and resumed, beside an uninterrupted one.

    The second is written when the first is complete.
    """
    require_grain()
    third = steps // 3
    changes = {"image_size": size, "steps": steps, "eval_every": third}
    environment = {} if cached else {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        finish(Run(whole, experiment, changes, environment))
        run = Run(killed, experiment, changes, environment)
        run.wait_for(f"step {2 * third + 1}/")
        run.process.kill()
        run.process.wait()
        finish(run := Run(killed, experiment, changes, environment))
        if "resuming " not in run.log.read_text():
            raise SystemExit("the run was not resumed from its checkpoint")
        load_experiment(experiment)  # may define its backbone
        return differences(whole, killed) | {"ms/step": milliseconds(whole)}


def milliseconds(workdir: Path) -> float:
    """Median of a run's steps."""
    rows = (row for row in read_rows(workdir) if "train/loss" in row)
    return 1000 * float(np.median([row["train/seconds_per_step"] for row in rows]))


def finish(run: Run) -> None:
    """Raises SystemExit if the run fails."""
    if run.process.wait():
        raise SystemExit(last_line(run.log.read_text()))


def differences(*workdirs: Path) -> Figures:
    """Of the states after the last step, of which grain's position is a part."""
    from jaxparse.data.loaders import make_train_loader
    from jaxparse.training.checkpoint import Checkpoints
    from jaxparse.training.steps import init_state

    states = []
    for config in map(read_config, workdirs):
        start, loader = init_state(config, make_mesh()), make_train_loader(config)
        state, step, _ = Checkpoints(config.workdir).restore(start, loader)
        assert step == config.steps, step
        states.append(list(map(np.asarray, jax.tree.leaves(state))))
    pairs = list(zip(*states, strict=True))
    unequal = [(a, b) for a, b in pairs if not np.array_equal(a, b)]
    largest = max((abs(a - b).max() / (abs(a).max() or 1) for a, b in unequal), default=0.0)
    return {
        "bit for bit": "no" if unequal else "yes",
        "arrays that differ": f"{len(unequal)} of {len(pairs)}",
        "largest difference": float(largest),
    }


# (g) How runs end


def fault_cases(quick: bool, size: int) -> Iterator[Case]:
    for name in ("terminated", "not_a_number", "out_of_memory"):
        arguments = {"experiment": QUICK if quick else "swin_b", "size": size}
        yield Case(name.replace("_", " "), f"runs:{name}", arguments)


def terminated(experiment: str, size: int) -> Figures:
    """SIGTERM: the run saves and ends."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", experiment, {"image_size": size}, {})
        run.wait_for("step 3/")
        asked = time.perf_counter()
        run.process.send_signal(signal.SIGTERM)
        return run.ended() | {"seconds to the end": time.perf_counter() - asked}


def not_a_number(experiment: str, size: int) -> Figures:
    """A learning rate that no weights survive."""
    changes = {"image_size": size, "learning_rate": 1e30, "warmup_steps": 0}
    with tempfile.TemporaryDirectory() as folder:
        return Run(Path(folder) / "run", experiment, changes, {}).ended()


def out_of_memory(experiment: str, size: int) -> Figures:
    """A share of a GPU's memory that does not hold the step."""
    is_cpu = 'import jax; raise SystemExit(jax.default_backend() == "cpu")'
    if subprocess.run([sys.executable, "-c", is_cpu]).returncode:
        raise SystemExit("only a GPU's memory can be bounded")
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.04", "XLA_CLIENT_MEM_FRACTION": "0.04"}
    with tempfile.TemporaryDirectory() as folder:
        return Run(Path(folder) / "run", experiment, {"image_size": size}, share).ended()


if __name__ == "__main__":
    main()
