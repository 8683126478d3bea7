"""Times predict and evaluate apart from the network: milliseconds per picture.

    python benchmarks/prediction.py DIR [--pictures 100] [--workers 2]

DIR holds images/ and masks/ with the same names. The network is replaced by fixed logits, at a
quarter of 512×512. What remains is decoding, resizing, upsampling and writing the mask; or decoding
picture and mask, upsampling and counting. Counting is also timed by itself.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxparse.config import Config
from jaxparse.data.folders import Pair
from jaxparse.data.images import read_header
from jaxparse.data.masks import read_label
from jaxparse.data.sources import FolderSource
from jaxparse.parsing.labelled import evaluate_pictures
from jaxparse.parsing.parser import Parser
from jaxparse.predict import make_writers, predict_files
from jaxparse.scoring.counts import count

ROUNDS = 5


class Idle(Parser):
    """A parser with fixed logits in place of a network."""

    def __init__(self, batch_size: int) -> None:
        # Patches as large as those of a face: noise would take long to compress.
        logits = np.random.default_rng(0).normal(size=(batch_size, 8, 8, 19)).repeat(16, 1)
        logits = logits.repeat(16, 2)
        super().__init__(Config(backbone="swin_nano", batch_size=batch_size), {}, {})
        logits = jax.device_put(logits.astype(np.float32))
        self._network = lambda images: logits


def milliseconds(work: Callable[[], object], pictures: int) -> str:
    """Median and range over the rounds, after a first one that compiles."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start) / pictures)
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    images = sorted((args.folder / "images").iterdir())[: args.pictures]
    pairs = [Pair(p, args.folder / "masks" / f"{p.stem}.png", read_header(p).size) for p in images]
    source, network = FolderSource(pairs, 512, resize_label=False), Idle(4)

    def predict() -> None:
        with tempfile.TemporaryDirectory() as output:
            writers = make_writers(False, False, {}, False, False)
            written = predict_files(network, images, Path(output), writers, args.workers)
            assert list(written) == [None] * len(images)

    def evaluate() -> None:
        assert len(list(evaluate_pictures(network, source, args.workers))) == len(images)

    masks = [read_label(pair.label) for pair in pairs]

    def count_all() -> None:
        for label, prediction in zip(masks, masks[1:] + masks[:1], strict=True):
            count(label, prediction)

    print(f"{len(images)} pictures, {args.workers} workers; ms per picture, median (range)")
    print(f"predict without the network: {milliseconds(predict, len(images))}")
    print(f"evaluate without the network: {milliseconds(evaluate, len(images))}")
    print(f"counting only, one thread: {milliseconds(count_all, len(images))}")


if __name__ == "__main__":
    main()
