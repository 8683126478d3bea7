"""Kills a short run at random moments, 100 times, and compares its end with an uninterrupted run's.

    python benchmarks/soak.py [--kills 100] [--steps 400] [--folder DIR] [--seed 0]

swin_nano on drawn faces at 64×64, a checkpoint and an evaluation every second step. A third of the
kills fall anywhere between the start of Python and the first steps, a third within a second of
training, a third into a checkpoint that is being written. Keeps its compiled programs in DIR.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxparse.config import Config, load_experiment
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import make_mesh
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.steps import init_state
from jaxparse.weights.files import BEST_WEIGHTS, read_weights

SETTINGS = {
    "image_size": 64,
    "synthetic_train_count": 40,
    "synthetic_val_count": 4,
    "num_workers": 2,
    "eval_every": 2,
    "log_every": 1,
    "warmup_steps": 10,
    "drop_path_rate": 0.05,
}


def start(config: Config, folder: Path) -> subprocess.Popen:
    """The command line's run of `config`, its output appended to WORKDIR.log."""
    experiment = folder / "soak.py"
    experiment.write_text(
        f"from jaxparse.config import Config\nconfig = Config(**{vars(config)!r})\n"
    )
    with Path(f"{config.workdir}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxparse.train", "--exp", str(experiment)],
            stdout=log,
            stderr=log,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "xla")},
        )


def last_logged(workdir: Path) -> float:
    """When metrics.jsonl was last written, in seconds since 1970."""
    path = workdir / "metrics.jsonl"
    return path.stat().st_mtime if path.exists() else 0.0


def is_saving(workdir: Path) -> bool:
    return any(workdir.glob("checkpoints/*tmp*"))


def kill_once(config: Config, folder: Path, rng: random.Random, startup: float) -> str:
    """Starts the run, kills it at a random moment and returns the kind of moment."""
    workdir, kind = Path(config.workdir), rng.choice(("any", "training", "saving"))
    began = time.time()
    process = start(config, folder)
    if kind == "any":
        deadline = began + rng.uniform(0, startup + 2)
    else:
        deadline = began + 20 * startup

        def trains() -> bool:
            # The log is rewritten when the run opens it, at the end of its start.
            return last_logged(workdir) > began + startup / 4

        while process.poll() is None and not trains() and time.time() < deadline:
            time.sleep(0.005)
        if kind == "training":
            deadline = time.time() + rng.uniform(0, startup / 4 + 1)
        else:
            while process.poll() is None and not is_saving(workdir) and time.time() < deadline:
                time.sleep(0.001)
            deadline = time.time() + rng.uniform(0, 0.5)
    while process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    process.kill()
    code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"the run ended by itself with {code}: see {workdir}.log")
    if code == 0:
        return "finished"
    return f"{kind}, checkpoint half-written" if is_saving(workdir) else kind


def compare(ours: Config, theirs: Config) -> None:
    """Ends with an error if the two runs' ends differ in any bit that is not a time."""
    ends = []
    for config in (ours, theirs):
        state, loader = init_state(config, make_mesh()), make_train_loader(config)
        state, step, faults = Checkpoints(config.workdir).restore(state, loader)
        assert step == config.steps and not faults, (step, faults)
        lines = (Path(config.workdir) / "metrics.jsonl").read_text().splitlines()
        rows = [
            {k: v for k, v in json.loads(line).items() if k != "train/seconds_per_step"}
            for line in lines
        ]
        best, about = read_weights(Path(config.workdir) / BEST_WEIGHTS)
        source = about["source"].replace(config.workdir, "RUN")
        ends.append((jax.tree.leaves(state), rows, list(best.values()), source))
    mine, other = ends
    for part in (0, 2):
        for a, b in zip(mine[part], other[part], strict=True):
            np.testing.assert_array_equal(a, b)
    assert mine[1] == other[1], "the logs differ"
    assert mine[3] == other[3], (mine[3], other[3])
    names = [{path.name for path in Path(config.workdir).iterdir()} for config in (ours, theirs)]
    assert names[0] == names[1], names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="soak_"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(load_experiment("quickstart"), **SETTINGS, steps=args.steps)
    whole = replace(config, workdir=str(folder / "whole"))
    killed = replace(config, workdir=str(folder / "killed"))
    began = time.time()
    if start(whole, folder).wait():
        raise SystemExit(f"the uninterrupted run failed: see {whole.workdir}.log")
    print(f"uninterrupted run: {time.time() - began:.0f} s", flush=True)

    began = time.time()  # again, at its end already: how long a start takes with the programs there
    start(whole, folder).wait()
    startup = time.time() - began
    rng, kinds = random.Random(args.seed), Counter()
    for number in range(args.kills):
        kind = kill_once(killed, folder, rng, startup)
        kinds[kind] += 1
        print(f"kill {number + 1}: {kind}, {time.time() - began:.0f} s", flush=True)
        if kind == "finished":
            break
    if start(killed, folder).wait():
        raise SystemExit(f"the last run failed: see {killed.workdir}.log")
    compare(killed, whole)
    print(f"{dict(kinds)}: the same end, bit for bit, after {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
