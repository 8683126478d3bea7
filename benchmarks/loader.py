"""Whether the host keeps up: pictures per second from files to batches, and its time per step.

    python benchmarks/loader.py [--data-dir DIR] [--num-workers 2]

Compared with PyTorch's DataLoader (if installed) doing the same work with as many workers: Pillow
decodes 512×512 JPEGs and PNGs, pictures are normalised, batches collated. Rounds alternate. The
host's time per step is that of everything but the compiled computation, for swin_b's state: a batch
to the device, the call with some 500 arrays, new arrays in place of the donated ones.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from jaxparse.config import Config, load_experiment
from jaxparse.data.folders import Pair, find_pairs
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import make_mesh, shard_batch
from jaxparse.models.segmentor import normalise
from jaxparse.synthetic import write_faces
from jaxparse.training.steps import StepMetrics, TrainState, init_state

DRAWN = 64  # faces, if there is no --data-dir


@dataclass(frozen=True)
class Arguments:
    data_dir: Path | None = None
    """Folder with train/; by default drawn faces in a temporary one."""
    num_workers: int = 2
    """Threads of jaxparse's loader, processes of PyTorch's."""
    batch_size: int = 4
    """Pictures per batch."""
    pictures: int = 400
    """Pictures per round."""
    rounds: int = 3
    """Rounds of each loader."""


def jaxparse_batches(config: Config) -> Iterator[Any]:
    """Endless batches, normalised on the device."""
    mesh, prepare = make_mesh(), jax.jit(partial(normalise, config=config))
    for batch in make_train_loader(config):
        batch = shard_batch(batch, mesh)
        yield jax.block_until_ready((prepare(batch["image"]), batch["label"]))


class TorchPairs:
    """The pairs as a DataLoader takes them: normalised float32 [3, H, W], int64 [H, W]."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch

        pair = self.pairs[index]
        image = np.asarray(Image.open(pair.image).convert("RGB"), np.float32)
        image = (
            torch.from_numpy((image - Config.image_mean) / Config.image_std)
            .float()
            .permute(2, 0, 1)
            .contiguous()
        )
        return image, torch.from_numpy(np.array(Image.open(pair.label), np.int64))


def torch_batches(config: Config) -> Iterator[Any]:
    """Endless batches of a DataLoader."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        TorchPairs(find_pairs(config.data_dir, "train")),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.num_workers,
        persistent_workers=True,
        multiprocessing_context="spawn",  # JAX's threads do not survive a fork
    )
    while True:
        yield from loader


def rate(batches: Iterator[Any], config: Config, pictures: int) -> float:
    """Pictures per second."""
    count = max(pictures // config.batch_size, 1)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * config.batch_size / (time.perf_counter() - started)


def loader_table(config: Config, arguments: Arguments) -> Table:
    """Pictures per second of both loaders, their medians and the ratio."""
    loaders: dict[str, Callable[[Config], Iterator[Any]]] = {"jaxparse": jaxparse_batches}
    try:
        import torch  # noqa: F401

        loaders["PyTorch DataLoader"] = torch_batches
    except ImportError:
        Console().print("PyTorch is not installed: measuring only jaxparse")
    running = {name: make(config) for name, make in loaders.items()}
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for batches in running.values():
        rate(batches, config, arguments.pictures // 4)  # starts workers, fills caches
    for _ in range(arguments.rounds):
        for name, batches in running.items():
            rates[name].append(rate(batches, config, arguments.pictures))
    table = Table("loader", "pictures/s", "median", title=f"{config.num_workers} workers")
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    for name, values in rates.items():
        table.add_row(name, " ".join(f"{v:.0f}" for v in values), f"{medians[name]:.0f}")
    if len(medians) == 2:
        table.add_row("ratio", "", f"{medians['jaxparse'] / medians['PyTorch DataLoader']:.2f}")
    return table


def host_milliseconds(config: Config, repeats: int = 50) -> float:
    """Median time of a step whose compiled part does nothing."""
    mesh = make_mesh()
    shape = (config.batch_size, config.image_size, config.image_size)
    batch = {"image": np.zeros((*shape, 3), np.uint8), "label": np.zeros(shape, np.uint8)}

    def nothing(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, StepMetrics]:
        return state._replace(step=state.step + 1), StepMetrics(*[jnp.zeros(())] * 4)

    step, state = jax.jit(nothing, donate_argnums=0), init_state(config, mesh)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        state, metrics = step(state, shard_batch(batch, mesh))
        seconds.append(time.perf_counter() - started)
        jax.block_until_ready((state, metrics))
    return 1e3 * float(np.median(seconds))


def main(arguments: Arguments) -> None:
    """Prints both measurements."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = arguments.data_dir
        if data_dir is None:
            data_dir = Path(folder)
            write_faces(data_dir, DRAWN, val_count=0)
        config = replace(
            load_experiment("swin_b"),
            data_dir=str(data_dir),
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
        )
        Console().print(loader_table(config, arguments))
    milliseconds = host_milliseconds(config)
    Console().print(f"host's time per step of swin_b: {milliseconds:.2f} ms")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
