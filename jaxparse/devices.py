"""Devices and processes: meshes, the compilation cache, and how the processes of a run join.

A run may have several processes, on one host or many. One that dies must not leave the others
waiting: on CPUs gloo's connections break at once and raise; where a collective hangs instead (NCCL,
a lost host), jax's heartbeat aborts the process. Either way one line says so.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxparse.cli import print_error
from jaxparse.cuda import plugin_fault
from jaxparse.files import reason

Batch = dict[str, Array]
PyTree: TypeAlias = Any  # nested dicts, tuples and lists of arrays

# What jax reads to join a cluster's job: a variable of the job, and that of its process count.
CLUSTERS = {
    "SLURM_STEP_NODELIST": "SLURM_NTASKS",
    "OMPI_MCA_orte_hnp_uri": "OMPI_COMM_WORLD_SIZE",
}
# In the errors of collectives, checkpoints and shutdown when another process is gone.
PEER_GONE = re.compile("gloo|nccl|connection (closed|reset)|coordination|barrier", re.IGNORECASE)
VOTE_EVERY = 10  # steps; a vote lets the device idle for the milliseconds until the next step
AGAIN = "start all processes again with the same command to resume from the last checkpoint"


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that only the first start of a command compiles.

    In JAX_COMPILATION_CACHE_DIR, or else in ~/.cache/jaxparse. Small programs too: JAX leaves out
    those that compile within a second, of which a start has a dozen.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if jax.config.jax_compilation_cache_dir:
        return
    try:
        folder = Path.home() / ".cache" / "jaxparse"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in docker --user
        text = "without a home folder compiled programs are not kept; set JAX_COMPILATION_CACHE_DIR"
        logging.getLogger(__name__).warning(text)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def all_devices() -> list[jax.Device]:
    """The devices of all processes. Raises ValueError if JAX cannot use those it is told to."""
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:  # an assertion where a plugin is missing
        if fault := plugin_fault():
            raise ValueError(fault) from error
        asked = jax.config.jax_platforms or "the default"
        raise ValueError(
            f"JAX cannot use its platform {asked} ({reason(error)}); unset JAX_PLATFORMS, or for a "
            "GPU: pip install 'jaxparse[cuda13]' (with a driver older than 580: 'jaxparse[cuda12]')"
        ) from error


def local_devices() -> list[jax.Device]:
    """Those of this process. Raises as `all_devices`."""
    all_devices()
    return jax.local_devices()


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over the devices, by default all of all processes."""
    devices = all_devices() if devices is None else devices
    kind = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), kind, devices=devices)


def require_shards(count: int, mesh: Mesh) -> None:
    """Raises ValueError unless `count` pictures at a time divide among the devices."""
    if count % mesh.size:
        raise ValueError(
            f"{count} pictures at a time do not divide among {mesh.size} devices; give a "
            f"--batch-size that is a multiple of {mesh.size}, or use fewer devices"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """This process's share of a batch, numpy arrays [B, ...], put on its devices."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.make_array_from_process_local_data(sharding, batch)


def device_line() -> str:
    """The devices and their memory, for the first line of a run."""
    device, count = local_devices()[0], jax.device_count()
    if device.platform == "cpu":
        memory, name = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "CPU"
        name += f" ({os.cpu_count()} cores)"
    else:
        memory, name = (device.memory_stats() or {}).get("bytes_limit"), device.device_kind
    times = f"{count} x " if count > 1 else ""
    return f"device: {times}{name}" + (f", {memory / 1e9:.1f} GB" if memory else "")


def unused_gpu() -> str | None:
    """A line on an NVIDIA GPU that is present and that JAX cannot use, None if there is none."""
    present = Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi")
    if not present or jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return None
    if plugin_fault():  # JAX has said so
        return None
    return (
        "this machine has an NVIDIA GPU that JAX cannot use, so the CPU computes; install JAX for "
        "CUDA: pip install 'jaxparse[cuda13]' (with a driver older than 580: 'jaxparse[cuda12]')"
    )


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


@dataclass(frozen=True)
class Processes:
    """How this process meets the others of its run. Under SLURM and Open MPI nothing is needed."""

    coordinator: str = ""
    """HOST:PORT of process 0, if the run has several processes; provided by SLURM and Open MPI."""
    num_processes: int = 0
    """Processes of the run, with --coordinator."""
    process_id: int = -1
    """Number of this process, from 0, with --coordinator."""
    heartbeat_seconds: int = 50
    """Seconds of silence after which a process counts as dead, which ends the run."""

    def __post_init__(self) -> None:
        given = bool(self.coordinator), self.num_processes > 0, self.process_id >= 0
        if any(given) and not all(given):
            raise ValueError("give --coordinator, --num-processes and --process-id together")
        if all(given) and self.process_id >= self.num_processes:
            raise ValueError(
                f"process_id is {self.process_id}; it must be below the {self.num_processes} "
                "processes, the first is 0"
            )


ONE_PROCESS = Processes()


def in_cluster() -> bool:
    """Whether the environment says that this is one of several processes of a cluster's job."""
    return any(
        name in os.environ and int(os.environ.get(count, 1)) > 1 for name, count in CLUSTERS.items()
    )


@contextmanager
def joined(processes: Processes) -> Iterator[None]:
    """The block runs as one of several processes, if flags or the cluster say so.

    An error in the block then ends this process at once, with its line on stderr and exit code 1:
    a normal exit would wait for peers that are gone or waiting for us.
    """
    if not processes.coordinator and not in_cluster():
        all_devices()  # or a line that says why there are none
        yield
        return
    _initialize(processes)
    try:
        with _message_if_aborted():
            yield
            jax.distributed.shutdown()  # waits until all have come here
    except BaseException as error:
        _leave(error)


def _initialize(processes: Processes) -> None:
    # It would swallow SIGTERM; `StopVote` does its work, for Ctrl-C as well.
    jax.config.update("jax_enable_preemption_service", False)
    # gloo matches messages only by their order, and XLA's concurrent schedule for CPUs gives its
    # collectives none: "Received data size doesn't match expected size".
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    address = {}
    if processes.coordinator:
        address = {
            "coordinator_address": processes.coordinator,
            "num_processes": processes.num_processes,
            "process_id": processes.process_id,
        }
    heartbeat = processes.heartbeat_seconds
    try:
        jax.distributed.initialize(**address, heartbeat_timeout_seconds=heartbeat)
    except RuntimeError as error:
        raise ValueError(f"could not meet the other processes: {error}") from error
    if jax.default_backend() == "cpu":
        # Read from the cache, a step runs its collectives in another order than one just compiled,
        # and gloo mixes up their messages.
        jax.config.update("jax_enable_compilation_cache", False)


@contextmanager
def _message_if_aborted() -> Iterator[None]:
    """Prints a line if this process is aborted inside the block, outside of Python."""
    message = f"error: a process is gone, and process {jax.process_index()} with it; {AGAIN}"
    # jax aborts from a thread of C++, so another process prints the line: when the pipe breaks
    # before it has received one.
    script = 'trap "" INT TERM HUP; read -r line || echo "$0" >&2'
    with subprocess.Popen(["sh", "-c", script, message], stdin=subprocess.PIPE) as watcher:
        try:
            yield
        finally:
            watcher.communicate(b"ended by itself\n")


def _leave(error: BaseException) -> None:
    """Reports the error and ends the process."""
    if PEER_GONE.search(str(error)):
        here = jax.process_index()
        error = ValueError(f"a process is gone (process {here}: {str(error)[:300]!r}); {AGAIN}")
    try:
        code = print_error(error)
    except BaseException:  # a bug
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        # jax aborts its peers when the coordinator leaves; they may have an error of their own to
        # print first: bad flags are bad in every process.
        time.sleep(2)
    os._exit(code)


def gather_rows(rows: np.ndarray, total: int) -> np.ndarray:
    """[n, ...] of each process -> [total, ...] in all: process p's rows are p, p + processes, …"""
    share = -(-total // jax.process_count())
    padded = np.pad(rows, ((0, share - len(rows)), *[(0, 0)] * (rows.ndim - 1)))
    gathered = multihost_utils.process_allgather(padded[None], tiled=True)
    return gathered.swapaxes(0, 1).reshape(-1, *rows.shape[1:])[:total]


class StopVote:
    """Stops all processes after the same step when one of them is asked to stop."""

    def __init__(self, mesh: Mesh) -> None:
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._any = jax.jit(lambda votes: votes.any())

    def __call__(self, wanted: bool, step: int, result: jax.Array) -> bool:
        """Whether to stop after `step`, whose `result` is given: the same in every process."""
        if jax.process_count() == 1:
            return wanted
        if step % VOTE_EVERY:
            return False
        # gloo mixes up the messages of two programs that run at the same time.
        result.block_until_ready()
        votes = np.full(jax.local_device_count(), wanted)
        return bool(self._any(jax.make_array_from_process_local_data(self._sharding, votes)))
