"""The slowest kernels of a training step and the device's idle share, from a trace of the profiler.

Reads the .trace.json.gz that jax.profiler writes (Chrome's trace format): it needs no TensorFlow.
"""

import gzip
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.gpu.cases import QUICK, Case, Figures
from benchmarks.gpu.speed import random_batch
from jaxparse.config import load_experiment
from jaxparse.devices import make_mesh, shard_batch
from jaxparse.training.steps import init_state, make_train_step

STEPS = 3  # traced
SLOWEST = 10


class Kernel(NamedTuple):
    """One run of a kernel; times in microseconds."""

    name: str
    start: float
    duration: float


def cases(quick: bool, size: int) -> Iterator[Case]:
    arguments = {"experiment": QUICK if quick else "swin_b", "size": size}
    arguments |= {"batch": 2 if quick else 16, "precision": "bfloat16"}
    yield Case(f"{arguments['experiment']}, bfloat16", "kernels:slowest_of_step", arguments)


def read_trace(folder: Path) -> list[dict]:
    """The events of the newest trace in the folder given to jax.profiler."""
    files = sorted(folder.glob("plugins/profile/*/*.trace.json.gz"))
    if not files:
        raise ValueError(f"the profiler left no trace in {folder}")
    with gzip.open(files[-1], "rt") as file:
        return json.load(file)["traceEvents"]


def kernels(events: Iterable[dict]) -> list[Kernel]:
    """What ran in the streams of the GPUs; on a CPU the operations of compiled programs."""
    events = list(events)
    named = [
        event for event in events if event.get("ph") == "M" and "name" in event.get("args", {})
    ]
    devices = {
        event["pid"]
        for event in named
        if event["name"] == "process_name" and event["args"]["name"].startswith("/device:GPU")
    }
    # Beside the streams there are lines of whole programs and of the code's names.
    streams = {
        (event["pid"], event["tid"])
        for event in named
        if event["name"] == "thread_name" and "Stream" in event["args"]["name"]
    }

    def is_kernel(event: dict) -> bool:
        if devices:
            return event["pid"] in devices and (event["pid"], event["tid"]) in streams
        return "hlo_op" in event.get("args", {})

    complete = (event for event in events if event.get("ph") == "X")
    return [Kernel(e["name"], e["ts"], e.get("dur", 0)) for e in complete if is_kernel(e)]


def busy(ran: Iterable[Kernel]) -> float:
    """Microseconds in which at least one kernel ran."""
    total, end = 0.0, float("-inf")
    for kernel in sorted(ran, key=lambda kernel: kernel.start):
        stop = kernel.start + kernel.duration
        total += max(0.0, stop - max(end, kernel.start))
        end = max(end, stop)
    return total


def slowest(ran: Iterable[Kernel], steps: int, count: int = SLOWEST) -> list[str]:
    """A line for each of the names that take most: ms and runs per step, share of all kernels."""
    times: dict[str, list[float]] = {}
    for kernel in ran:
        times.setdefault(kernel.name, []).append(kernel.duration)
    total = sum(map(sum, times.values()))
    most = sorted(times.items(), key=lambda item: -sum(item[1]))[:count]
    return [
        f"{sum(durations) / steps / 1000:.3f} ms in {len(durations) / steps:g} runs, "
        f"{100 * sum(durations) / total:.1f} %: {name}"
        for name, durations in most
    ]


def slowest_of_step(experiment: str, size: int, batch: int, precision: str) -> Figures:
    """Of some training steps on the same random pictures, one after another."""
    changes = {"image_size": size, "batch_size": batch, "precision": precision}
    config, mesh = replace(load_experiment(experiment), **changes), make_mesh()
    state, pictures = init_state(config, mesh), shard_batch(random_batch(config), mesh)
    step = make_train_step(config).lower(state, pictures).compile()

    def run(state: object) -> object:
        for _ in range(STEPS):
            state, metrics = step(state, pictures)
        return jax.block_until_ready((state, metrics))[0]

    state = run(state)  # the first steps load the kernels
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(state)
        ran = kernels(read_trace(Path(folder)))
    wall = max(k.start + k.duration for k in ran) - min(k.start for k in ran)
    return {
        "kernels per step": len(ran) / STEPS,
        "busy ms per step": busy(ran) / STEPS / 1000,
        "idle %": 100 * (1 - busy(ran) / wall),
        "slowest": slowest(ran, STEPS),
    }
