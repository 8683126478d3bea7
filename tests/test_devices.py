"""Eight devices and two processes train what one device does; they stop and fail together.

Real processes on this host, the mini network and drawn faces; dropout and drop path on. 21 pictures
in batches of 8 and 13 to evaluate on: neither divides.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxparse.devices import Processes, in_cluster, use_compilation_cache
from jaxparse.weights.files import BEST_WEIGHTS, read_weights
from tests import mini
from tests.refusal import refuses

STEPS = 30
FLAGS = (
    f"--exp {mini.__file__} --image-size 32 --batch-size 8 --synthetic-train-count 21 "
    "--num-workers 1 "
    "--synthetic-val-count 13 --drop-path-rate 0.1 --learning-rate 1e-4 --warmup-steps 2 "
    f"--steps {STEPS} --eval-every 20 --log-every 1"
).split()
PATIENCE = 400  # seconds, for a machine with much else to do


class Run:
    """A process of `python -m jaxparse.train`."""

    def __init__(self, workdir: Path, *flags: str, devices: int = 1, module: str = "train") -> None:
        self.log = workdir.parent / f"{workdir.name}_{time.monotonic_ns()}.log"
        count = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {count}",
            "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
        }
        settings = FLAGS if module == "train" else ["--exp", str(mini.__file__)]
        command = [sys.executable, "-m", f"jaxparse.{module}", *settings, "--workdir", str(workdir)]
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


def start_two(workdir: Path, *flags: str, devices: int = 1, module: str = "train") -> list[Run]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    meeting = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    kind = {"devices": devices, "module": module}
    return [Run(workdir, *meeting, str(index), *flags, **kind) for index in range(2)]


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
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=2e-4, err_msg=name)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one device, and that of one on eight beside it."""
    workdir = tmp_path_factory.mktemp("devices") / "single"
    for run in [Run(workdir), Run(workdir.with_name("eight"), devices=8)]:
        assert run.end() == 0, run.screen
    return workdir


@pytest.mark.full
def test_eight_devices_train_as_one(single: Path) -> None:
    assert_same_run(single.with_name("eight"), single)


@pytest.mark.full
def test_two_processes_of_two_devices_evaluate_as_one(single: Path) -> None:
    files = [single / f"{count}.json" for count in (1, 2)]
    one = Run(single, "--output", str(files[0]), module="evaluate")
    assert one.end() == 0, one.screen
    two = start_two(single, "--output", str(files[1]), devices=2, module="evaluate")
    assert [run.end() for run in two] == [0, 0], two[1].screen
    assert "necklace" in two[0].screen and "necklace" not in two[1].screen
    assert files[0].read_text() == files[1].read_text()
    assert json.loads(files[0].read_text())["pictures"] == mini.config.synthetic_val_count


def assert_ends_for_want_of(victim: Run, other: Run) -> None:
    """The other process ends by itself, with a last line that says why and what to do."""
    assert other.end() not in (0, 130)
    last = other.screen.splitlines()[-1]
    assert last.startswith("error: a process is gone")
    assert "again with the same command" in last and "last checkpoint" in last
    victim.process.kill()
    victim.end()


@pytest.mark.full
def test_two_processes_stop_fail_and_resume_as_one_that_does_not(single: Path) -> None:
    """Two processes up to step 20 and beyond, one from there."""
    workdir = single.with_name("run")
    two = start_two(workdir)
    two[0].wait_for(f"step 2/{STEPS}")
    two[1].process.send_signal(signal.SIGTERM)
    assert [run.end() for run in two] == [130, 130], two[1].screen
    assert "stopped and saved after step 10" in two[0].screen
    assert "step" not in two[1].screen  # only the main process talks
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["10"]

    # A dead network: process 0 is only silent.
    two = start_two(workdir, "--heartbeat-seconds", "5")
    two[0].wait_for(f"resuming {workdir} after step 10")
    two[0].process.send_signal(signal.SIGSTOP)
    assert_ends_for_want_of(two[0], two[1])

    # A dead process: its connections break.
    two = start_two(workdir)
    two[0].wait_for(f"step 22/{STEPS}")
    two[1].process.kill()
    assert_ends_for_want_of(two[1], two[0])

    one = Run(workdir)
    assert one.end() == 0, one.screen
    assert f"resuming {workdir} after step 20" in one.screen and "| necklace" in one.screen
    assert_same_run(workdir, single)


def test_flags_belong_together() -> None:
    assert Processes() == Processes("", 0, -1, 50)
    Processes("host:1234", 2, 1)
    with refuses("--coordinator", "--num-processes", "--process-id"):
        Processes(num_processes=2)
    with refuses("process_id is 2", "2 processes"):
        Processes("host:1234", 2, 2)


def test_clusters_of_several_processes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_cluster()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not in_cluster()  # the batch script itself, outside of srun
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    assert in_cluster()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert not in_cluster()


def test_platform_that_jax_cannot_use_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxparse.benchmark", "--exp", "quickstart"],
        env=os.environ | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cuda" in done.stderr and "JAX_PLATFORMS" in done.stderr


def test_without_a_home_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert len(caplog.messages) == 1 and "JAX_COMPILATION_CACHE_DIR" in caplog.messages[0]
