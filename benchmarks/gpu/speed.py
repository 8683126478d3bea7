"""Milliseconds, memory and share of the card's peak: training steps and inference."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.gpu.cases import QUICK, Case, Figures, last_line
from jaxparse.benchmark import median_seconds
from jaxparse.config import Config, load_experiment
from jaxparse.devices import make_mesh, shard_batch, use_compilation_cache
from jaxparse.models.ops.resize import resize_logits
from jaxparse.parsing.network import highest_class, make_logits_step
from jaxparse.plan import compile_step, count_flops
from jaxparse.training.gpus import GPUS, key_of
from jaxparse.training.steps import init_state, make_train_step

# The four of the original recipes, then the newer ones; the more telling cases first.
RECIPES = {
    "swin_b": "swin_b",
    "swin_t": "swin_t",
    "deeplabv3plus_r50": "deeplabv3plus_r50_20k",
    "psanet_r50": "psanet_r50_80k",
}
NEWER = ("segformer_b0", "segformer_b2", "bisenet_r18", "segface_swin_b", "farl_vit_b16")
NEWER += ("parsenet", "tiny")
PRECISIONS = ("bfloat16", "float32")
PEERS = ("swin_b", "swin_t")  # and deeplabv3plus_r50, another function, where it is installed
REPEATS = 20


def case(kind: str, name: str, experiment: str, size: int, batch: int, precision: str) -> Case:
    arguments = {"experiment": experiment, "size": size, "precision": precision}
    arguments |= {"batch": batch} if kind == "train" else {"batches": (1, 8)}
    label = f"{name}, {precision}" + (f", batch {batch}" if kind == "train" else "")
    return Case(f"{kind} {label}", f"speed:{kind}", arguments)


def compile_cases(quick: bool, size: int) -> Iterator[Case]:
    """The programs of `cases`, compiled several at a time and kept on disk."""
    for case in cases(quick, size):
        yield case._replace(arguments=case.arguments | {"compile_only": True})


def cases(quick: bool, size: int) -> Iterator[Case]:
    networks = {"mini": QUICK} if quick else RECIPES
    batches, precisions = ((2,), PRECISIONS[:1]) if quick else ((16, 4), PRECISIONS)
    for batch in batches:
        for precision in precisions:
            for name, experiment in networks.items():
                yield case("train", name, experiment, size, batch, precision)
                if batch == batches[0]:
                    yield case("infer", name, experiment, size, batch, precision)
    for precision in precisions:
        for name in () if quick else NEWER:
            yield case("train", name, name, size, batches[0], precision)
            yield case("infer", name, name, size, batches[0], precision)


def share_of_peak(flops: int, seconds: float, precision: str) -> float | None:
    """In percent, None if the card is not in the table of `jaxparse.training.gpus`."""
    gpu = GPUS.get(key_of(jax.devices()[0].device_kind))
    if gpu is None:
        return None
    speed = 1e12 * (gpu.float32 if precision == "float32" else gpu.half)
    return 100 * flops / seconds / speed


def peak_gb() -> float | None:
    """Of this process so far; None where the device does not count, as a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 1e9 if "peak_bytes_in_use" in stats else None


def random_batch(config: Config) -> dict[str, Any]:
    rng, side = np.random.default_rng(0), config.image_size
    shape = (config.batch_size, side, side)
    return {
        "image": rng.integers(0, 256, (*shape, 3), np.uint8),
        "label": rng.integers(0, len(config.classes), shape, np.uint8),
    }


def train(
    experiment: str, size: int, batch: int, precision: str, compile_only: bool = False
) -> Figures:
    """A training step on random pictures; the plan is that of `jaxparse.plan`, not autotuned."""
    use_compilation_cache()
    changes = {"image_size": size, "batch_size": batch, "precision": precision}
    config, mesh = replace(load_experiment(experiment), **changes), make_mesh()
    state, pictures = init_state(config, mesh), shard_batch(random_batch(config), mesh)
    started = time.perf_counter()
    traced = make_train_step(config).trace(state, pictures)
    step = traced.lower().compile()
    compile_s = time.perf_counter() - started
    if compile_only:
        return {"compile s": compile_s, "planned GB": compile_step(config, mesh).peak / 1e9}

    def once() -> jax.Array:
        nonlocal state
        state, metrics = step(state, pictures)
        return metrics.loss

    seconds = median_seconds(once, REPEATS)
    return {
        "ms": 1000 * seconds,
        "pictures/s": batch / seconds,
        "% of peak": share_of_peak(count_flops(traced.jaxpr), seconds, precision),
        "peak GB": peak_gb(),
    }


def infer(
    experiment: str, size: int, batches: list[int], precision: str, compile_only: bool = False
) -> Figures:
    """Pictures to classes at their size: network, upsampling, the highest logit."""
    use_compilation_cache()
    config = replace(load_experiment(experiment), image_size=size)
    weights = jax.jit(lambda: init_state(config, make_mesh())[1:3])()
    network = make_logits_step(config, precision)

    def classes(params: dict, batch_stats: dict, image: jax.Array) -> jax.Array:
        logits = network(params, batch_stats, image)
        return highest_class(resize_logits(logits, image.shape[1:3], config.align_corners))

    figures: Figures = {}
    for batch in batches:
        image = jax.device_put(random_batch(replace(config, batch_size=batch))["image"])
        started = time.perf_counter()
        traced = jax.jit(classes).trace(*weights, image)
        compiled = traced.lower().compile()
        if compile_only:
            figures[f"compile s, batch {batch}"] = time.perf_counter() - started
            continue
        seconds = median_seconds(partial(compiled, *weights, image), REPEATS)
        share = share_of_peak(count_flops(traced.jaxpr), seconds, precision)
        figures |= {f"ms, batch {batch}": 1000 * seconds, f"% of peak, batch {batch}": share}
    return figures if compile_only else figures | {"peak GB": peak_gb()}


def peer_cases(quick: bool, size: int, peers: Path) -> Iterator[Case]:
    names, batches = (("swin_t",), (2,)) if quick else (PEERS, (16, 4))
    for batch in batches:
        for precision in PRECISIONS:
            for name in names:
                for compiled in (True, False):
                    how = "torch.compile" if compiled else "eager"
                    arguments = {"name": name, "size": size, "batch": batch}
                    arguments |= {"precision": precision, "compiled": compiled}
                    arguments |= {"script": str(peers / "bench_torch.py")}
                    arguments |= {"repeats": 2 if quick else REPEATS}
                    label = f"{how} {name}, {precision}, batch {batch}"
                    yield Case(label, "speed:peer", arguments)


def peer(
    name: str, size: int, batch: int, precision: str, compiled: bool, script: str, repeats: int
) -> Figures:
    """What PyTorch users run, by ../shared/peers/bench_torch.py in this Python."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise SystemExit(f"{package} is missing: pip install {package}")
    if not Path(script).is_file():
        raise SystemExit(f"there is no {script}; give its folder as --peers")
    words = [name, "--size", size, "--batch", batch, "--precision", precision, "--repeat", repeats]
    words += ["--compile"] if compiled else []
    command = [sys.executable, script, *map(str, words)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(last_line(done.stderr))
    found = json.loads(done.stdout.splitlines()[-1])
    seconds = found["train_step_s"]
    figures = {"ms": 1000 * seconds, "pictures/s": batch / seconds}
    figures |= {"peak GB": found.get("peak_device_gb")}
    times = {k: v for k, v in found.items() if k.startswith("inference_")}
    figures |= {f"ms, batch {k.split('_')[1]}": 1000 * v for k, v in times.items()}
    return figures | {"whole process s": time.perf_counter() - started}


def ratios(parts: dict[str, dict[str, Figures]]) -> dict[str, Figures]:
    """jaxparse over torch.compile, of the cases that both have: speed above 1 is faster."""
    found: dict[str, Figures] = {}
    for name, theirs in parts.get("torch", {}).items():
        if not name.startswith("torch.compile ") or "error" in theirs:
            continue
        label = name.removeprefix("torch.compile ")
        network, precision, _ = label.split(", ")
        ours = parts.get("speed", {})
        training = ours.get(f"train {label}", {})
        inference = ours.get(f"infer {network}, {precision}", {})
        speeds = {
            column: theirs[column] / inference[column]
            for column in theirs
            if column.startswith("ms, ") and column in inference
        }
        found[label] = {
            "training": training.get("pictures/s", math.nan) / theirs["pictures/s"],
            **{f"inference{column.removeprefix('ms')}": x for column, x in speeds.items()},
            "memory": (training.get("peak GB") or math.nan) / (theirs["peak GB"] or math.nan),
        }
    return found
