"""A source of pictures -> batches: decoded and resized, nothing else."""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxparse.classes import IGNORE_LABEL
from jaxparse.config import Config
from jaxparse.data.sampling import RepeatedOrder, Source, known_classes, repeat_factors
from jaxparse.data.sources import SkippingSource, make_source
from jaxparse.files import read_ahead, results

if TYPE_CHECKING:
    import grain

BLOCK = 512  # pixels on a side, at most, of what is compared with a mask at once


def _share(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}; it must be a multiple of the {process_count} processes"
        )
    return batch_size // process_count


def make_order(config: Config, source: Source, seed: int, process_index: int) -> RepeatedOrder:
    """The order of the pictures by the repeat factors of their classes."""
    keep_bad = config.on_bad_data == "skip"
    counted = known_classes(source, config.workdir, config.num_workers, keep_bad, process_index)
    places = range(len(config.classes))
    present = np.array([np.isin(places, classes) for classes in counted.values()])
    return RepeatedOrder(repeat_factors(present, config.repeat_threshold), seed)


def make_train_loader(
    config: Config,
    process_index: int = 0,
    process_count: int = 1,
    warn: Callable[[str], None] | None = None,
) -> "grain.DatasetIterator":
    """Endless batches {"image": uint8 [B, S, S, 3], "label": uint8 [B, S, S]} of this process.

    - B is batch_size / process_count.
    - Each epoch is shuffled by config.seed and its number; epochs follow each other without end.
    - With `repeat_threshold` an epoch is that of `sampling.RepeatedOrder`; the first time, every
      mask is read to see which classes it holds.
    - Process p takes the p-th part of every batch_size pictures. Concatenated, the processes' parts
      equal the single-process batch row by row (dropout masks depend on the row).
    - get_state() is a dict for JSON, {"next_index": pictures taken}; set_state() resumes there.
    - With `warn` unreadable pictures are replaced, as SkippingSource does; without, they raise
      ValueError.
    """
    # Not at the top: grain imports jax, which the rest of this module does not need.
    import grain

    original = make_source(config, "train", resize_label=True, keep_bad=warn is not None)
    source = SkippingSource(original, warn) if warn else original
    batch_size = _share(config.batch_size, process_count)
    # grain seeds epoch e with seed + e: without the hash, seed 1 would be seed 0 an epoch later.
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
    read_options = grain.ReadOptions(
        num_threads=config.num_workers,
        prefetch_buffer_size=max(2 * batch_size, config.num_workers),
    )
    if config.repeat_threshold:
        order = make_order(config, original, seed, process_index)
        pictures = grain.MapDataset.range(sys.maxsize).map(lambda place: source[order[place]])
    else:
        pictures = grain.MapDataset.source(source).shuffle(seed).repeat()
    if process_count > 1:

        def read(taken: int) -> dict[str, Any]:
            step, row = divmod(taken, batch_size)
            return everyones[step * config.batch_size + process_index * batch_size + row]

        everyones, pictures = pictures, grain.MapDataset.range(sys.maxsize).map(read)
    pictures = pictures.map(lambda example: {key: example[key] for key in ("image", "label")})
    return iter(pictures.to_iter_dataset(read_options).batch(batch_size))


class EvalLoader:
    """Every picture once, in order, in batches of one size; each iteration starts from the first.

    A batch is {"image": uint8 [B, S, S, 3], "label": uint8 [B, Hp, Wp], "size": int32 [B, 2],
    "name": list[str]}: masks at their own size (height, width), padded with 255 at the bottom
    and right to whole blocks, as many in all processes. `block` is the (height, width) of one, the
    same in all batches, so that one program compares them all. B is batch_size / process_count;
    batch number i of process p holds the p-th part of the i-th batch_size pictures. Rows after the
    last picture hold a black image, label 255, size (1, 1) and name ""; with `warn`, so do
    unreadable pictures, which otherwise raise ValueError.
    """

    def __init__(
        self,
        config: Config,
        split: str = "val",
        process_index: int = 0,
        process_count: int = 1,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.source = make_source(config, split, keep_bad=warn is not None)
        self.read = SkippingSource(self.source, warn).read if warn else self.source.__getitem__
        self.config = config
        self.batch_size = _share(config.batch_size, process_count)
        self.process_index = process_index
        largest = np.max([self.source.label_size(i) for i in range(len(self.source))], axis=0)
        self.block = tuple(np.minimum(largest, BLOCK).tolist())

    def __len__(self) -> int:
        return -(-len(self.source) // self.config.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        threads = self.config.num_workers
        return results(read_ahead(self._read_batch, range(len(self)), threads))

    def _read_batch(self, number: int) -> dict[str, Any]:
        start = number * self.config.batch_size
        # Of all processes, whose masks are padded to one size.
        indices = range(start, min(start + self.config.batch_size, len(self.source)))
        first = self.process_index * self.batch_size
        batch = self._empty_batch(indices)
        for row, index in enumerate(indices[first : first + self.batch_size]):
            example = self.read(index)
            if example is None:
                continue
            height, width = example["label"].shape
            batch["image"][row] = example["image"]
            batch["label"][row, :height, :width] = example["label"]
            batch["size"][row] = height, width
            batch["name"][row] = example["name"]
        return batch

    def _empty_batch(self, indices: range) -> dict[str, Any]:
        """A batch of padding whose masks have room for those of `indices`."""
        largest = np.max([self.source.label_size(index) for index in indices], axis=0)
        height, width = -(-largest // self.block) * self.block
        count, image_size = self.batch_size, self.config.image_size
        return {
            "image": np.zeros((count, image_size, image_size, 3), np.uint8),
            "label": np.full((count, height, width), IGNORE_LABEL, np.uint8),
            "size": np.ones((count, 2), np.int32),
            "name": [""] * count,
        }
