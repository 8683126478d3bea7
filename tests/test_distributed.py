"""Several devices and several processes train what one does; they stop, fail and go on together.

Real processes on this host, swin_nano at 32×32 and drawn faces; dropout and drop path on. 21
pictures in batches of 8 and 13 to evaluate on: neither divides.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxparse.checkpoint import BEST_WEIGHTS, read_weights
from jaxparse.distributed import Processes, in_cluster

STEPS = 40
FLAGS = (
    "--exp quickstart --image-size 32 --batch-size 8 --synthetic-train-count 21 --num-workers 1 "
    "--synthetic-val-count 13 --drop-path-rate 0.1 --learning-rate 1e-4 --warmup-steps 2 "
    f"--steps {STEPS} --eval-every 20 --log-every 1"
).split()
# Halves the time of compiling.
XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
PATIENCE = 400  # seconds, for a machine with much else to do


class Run:
    """A process of `python -m jaxparse.train`."""

    def __init__(self, workdir: Path, *flags: str, devices: int = 1) -> None:
        self.log = workdir.parent / f"{workdir.name}_{time.monotonic_ns()}.log"
        environment = os.environ | {
            "XLA_FLAGS": f"{XLA} --xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
        }
        command = [sys.executable, "-m", "jaxparse.train", *FLAGS, "--workdir", str(workdir)]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *flags],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parent.parent,
            )

    @property
    def screen(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.screen:
            assert self.process.poll() is None and time.monotonic() < deadline, self.screen
            time.sleep(0.02)

    def end(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)


def start_two(workdir: Path, *flags: str) -> list[Run]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    meeting = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    return [Run(workdir, *meeting, str(index), *flags) for index in range(2)]


def rows(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(workdir: Path, expected: Path) -> None:
    """Losses of every step within 1e-5, evaluations within a few pixels, weights likewise."""
    ours, theirs = rows(workdir), rows(expected)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name, tolerance in (("train/loss", 1e-5), ("val/mIoU", 1e-4), ("val/aAcc", 3e-4)):
        figures = [np.array([row[name] for row in r if name in row]) for r in (ours, theirs)]
        assert len(figures[0]) == (STEPS if name == "train/loss" else 2)
        np.testing.assert_allclose(*figures, rtol=0, atol=tolerance)
    ours, theirs = (read_weights(path / BEST_WEIGHTS)[0] for path in (workdir, expected))
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-3, err_msg=name)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run of one process on one device."""
    workdir = tmp_path_factory.mktemp("scale") / "single"
    run = Run(workdir)
    assert run.end() == 0, run.screen
    return workdir


@pytest.fixture(scope="module")
def stopped(single: Path) -> Path:
    """The workdir of a run of two processes, one of which got SIGTERM."""
    workdir = single.parent / "two"
    two = start_two(workdir)
    two[0].wait_for(f"step 2/{STEPS}")
    two[1].process.send_signal(signal.SIGTERM)
    assert [run.end() for run in two] == [130, 130], two[1].screen
    assert "stopped and saved after step" in two[0].screen
    assert "step" not in two[1].screen  # only the main process talks
    steps = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert steps in ({10}, {20}, {20, 30})  # 20 is that of an evaluation
    return workdir


def test_eight_devices_train_as_one(single: Path) -> None:
    workdir = single.parent / "eight"
    run = Run(workdir, devices=8)
    assert run.end() == 0, run.screen
    assert_same_run(workdir, single)


def test_another_number_of_processes_goes_on(single: Path, stopped: Path) -> None:
    workdir = shutil.copytree(stopped, single.parent / "one")
    one = Run(workdir)
    assert one.end() == 0, one.screen
    assert "going on after step" in one.screen
    assert_same_run(workdir, single)


def test_a_dead_peer_ends_the_run_and_the_same_command_resumes_it(
    single: Path, stopped: Path
) -> None:
    again = "start all processes again with the same command: it goes on from the last checkpoint"
    # Its connections break at once; then a process 0 that is only silent, as behind a dead network.
    for victim, number in ((1, signal.SIGKILL), (0, signal.SIGSTOP)):
        two = start_two(stopped, "--heartbeat-seconds", "5")
        two[0].wait_for("going on after step")
        two[0].wait_for(f"/{STEPS}  loss")
        two[victim].process.send_signal(number)
        before = time.monotonic()
        assert two[1 - victim].end() not in (0, 130)
        assert time.monotonic() - before < 60
        last = two[1 - victim].screen.splitlines()[-1]
        assert last.startswith("error: a process is gone") and last.endswith(again)
        two[victim].process.kill()
        two[victim].end()
    two = start_two(stopped)
    assert [run.end() for run in two] == [0, 0], two[1].screen
    assert "going on after step" in two[0].screen and "| necklace" in two[0].screen
    assert_same_run(stopped, single)


def test_flags_belong_together() -> None:
    assert Processes() == Processes("", 0, -1, 50)
    Processes("host:1234", 2, 1)
    with pytest.raises(ValueError, match="give --coordinator, --num-processes and --process-id to"):
        Processes(num_processes=2)
    with pytest.raises(ValueError, match="process_id is 2; it must be below the 2 processes, the"):
        Processes("host:1234", 2, 2)


def test_clusters_of_several_processes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_cluster()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not in_cluster()  # the batch script itself, outside of srun
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    assert in_cluster()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert not in_cluster()
