"""Times of the compiled training step and of inference: `python -m jaxparse.benchmark --exp NAME`.

Medians over repeated runs on random pictures, in this process and on this machine's devices.
Inference is one picture: network, logits resized to the picture, argmax.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("benchmark")

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxparse import cli
from jaxparse.config import Config, parse_arguments
from jaxparse.devices import all_devices, make_mesh, shard_batch
from jaxparse.parsing.network import make_logits_step, predict_label
from jaxparse.training.steps import init_state, make_train_step


@dataclass(frozen=True)
class BenchmarkOptions:
    """Flags of this command beside the fields of Config."""

    repeats: int = 5
    """Timed runs of each, after one that is not counted; the median is printed."""


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median wall time of `call` after one that is not counted; waits for what it returns."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def benchmark_inference(config: Config, repeats: int) -> dict[str, float]:
    """Seconds to compile and to run inference on one picture of image_size."""
    size = (config.image_size, config.image_size)
    state = init_state(config, make_mesh())
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    logits_step = make_logits_step(config)

    def infer(params: dict[str, Any], batch_stats: dict[str, Any], image: jax.Array) -> jax.Array:
        logits = logits_step(params, batch_stats, image)
        wanted = np.array(size, np.int32)
        return predict_label(logits[0], wanted, size, align_corners=config.align_corners)

    args = (state.params, state.batch_stats, jax.device_put(image))
    started = time.perf_counter()
    compiled = jax.jit(infer).lower(*args).compile()
    compile_s = time.perf_counter() - started
    seconds = median_seconds(partial(compiled, *args), repeats)
    return {"inference_compile_s": compile_s, "inference_s": seconds}


def benchmark_training(config: Config, repeats: int) -> dict[str, float]:
    """Seconds to compile and to run one training step of batch_size pictures."""
    mesh, rng = make_mesh(), np.random.default_rng(0)
    shape = (config.batch_size, config.image_size, config.image_size)
    batch = {
        "image": rng.integers(0, 256, (*shape, 3), np.uint8),
        "label": rng.integers(0, len(config.classes), shape, np.uint8),
    }
    batch, state = shard_batch(batch, mesh), init_state(config, mesh)
    started = time.perf_counter()
    step = make_train_step(config).lower(state, batch).compile()
    compile_s = time.perf_counter() - started

    def train() -> jax.Array:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics.loss

    return {"train_compile_s": compile_s, "train_step_s": median_seconds(train, repeats)}


def peak_memory_gb() -> dict[str, float]:
    """Peak resident memory of this process and, where it is known, of the first device."""
    peaks = {"peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        peaks["peak_device_gb"] = stats["peak_bytes_in_use"] / 1e9
    return peaks


def main() -> None:
    """Prints a table, and one line of JSON as the last."""
    about = (cli.prog("benchmark"), "Times the compiled training step and inference.")
    _, config, options = parse_arguments(*about, BenchmarkOptions())
    figures = {
        "network": f"{config.backbone} + {config.head}",
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "device": all_devices()[0].device_kind,
        "devices": jax.device_count(),
        "repeats": options.repeats,
    }
    with cli.busy("compiling and timing inference"):
        figures |= benchmark_inference(config, options.repeats)
    with cli.busy("compiling and timing a training step"):
        figures |= benchmark_training(config, options.repeats)
    figures |= peak_memory_gb()
    table = Table("figure", title="benchmark")
    table.add_column("value", justify="right")
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    for name, value in rounded.items():
        table.add_row(name, str(value))
    Console(stderr=True).print(table)
    print(json.dumps(rounded))
