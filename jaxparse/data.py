"""Pairs on disk or drawn -> random-access source -> batches: decoded and resized, nothing else.

`python -m jaxparse.data --check DIR` reads every file of a folder and lists the bad ones.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from jaxparse.classes import IGNORE_LABEL
from jaxparse.cli import run
from jaxparse.config import SYNTHETIC, Config
from jaxparse.folders import Pair, find_pairs
from jaxparse.images import read_pair
from jaxparse.synthetic import draw_face

if TYPE_CHECKING:
    import grain

SYNTHETIC_SEEDS = {"train": 0, "val": 1}  # not config.seed: every run sees the same faces
PAD_MULTIPLE = 64  # mask sizes are rounded up to it, so that few shapes get compiled

T = TypeVar("T")
R = TypeVar("R")


def resize_image(picture: Image.Image, image_size: int) -> np.ndarray:
    """The picture as the networks take it, uint8 [S, S, 3]: bilinear, with antialiasing."""
    size = (image_size, image_size)
    # Pillow copies where nothing changes.
    return np.asarray(
        picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)
    )


class FolderSource:
    """Pairs as {"image": uint8 [S, S, 3], "label": uint8 [S, S] or [H, W], "name": str}.

    Images are resized bilinearly with antialiasing; masks by nearest neighbour if `resize_label`,
    else they keep their own size. Reading raises ValueError naming the bad file.
    """

    def __init__(
        self, pairs: list[Pair], image_size: int, resize_label: bool, label_order: str = "official"
    ) -> None:
        self.pairs = pairs
        self.image_size = image_size
        self.resize_label = resize_label
        self.label_order = label_order

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture, label = self.read(index)
        size = (self.image_size, self.image_size)
        if self.resize_label and label.shape != size:
            label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
        image = resize_image(picture, self.image_size)
        return {"image": image, "label": label, "name": self.name(index)}

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The picture and its mask, uint8 [H, W], at their own size."""
        pair = self.pairs[index]
        return read_pair(pair.image, pair.label, self.label_order)

    def name(self, index: int) -> str:
        """The picture's file name without its suffix."""
        return self.pairs[index].image.stem

    def label_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the mask as it is on disk, without reading it."""
        return self.pairs[index].size

    def __repr__(self) -> str:
        return f"FolderSource({len(self)} pairs, image_size={self.image_size})"


class SyntheticSource:
    """Drawn faces, the same keys as FolderSource, every mask [S, S].

    Each face is drawn once and kept (4 S^2 bytes): drawing costs as much as training a small
    network on it. Two threads may draw the same face at once; both get the same picture.
    """

    def __init__(self, seed: int, count: int, image_size: int) -> None:
        self.seed = seed
        self.count = count
        self.image_size = image_size
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self._draw(index)
        return {"image": image, "label": label, "name": self.name(index)}

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(f"face {index} of {self.count}")
        if index not in self._drawn:
            self._drawn[index] = draw_face(self.seed, index, self.image_size)
        return self._drawn[index]

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The picture and its mask, uint8 [S, S]."""
        image, label = self._draw(index)
        return Image.fromarray(image), label

    def name(self, index: int) -> str:
        """What a file of the face would be called."""
        return f"face_{index:05d}"

    def label_size(self, index: int) -> tuple[int, int]:
        """(height, width) of every mask."""
        return self.image_size, self.image_size

    def __repr__(self) -> str:
        return (
            f"SyntheticSource(seed={self.seed}, {self.count} faces, image_size={self.image_size})"
        )


class SkippingSource:
    """A source whose unreadable pictures are replaced by the next readable ones.

    Which these are depends on the files alone, so a resumed run sees the same. `warn` gets one line
    per bad file, from the reading thread. Raises ValueError if no picture can be read.
    """

    def __init__(self, source: FolderSource, warn: Callable[[str], None]) -> None:
        self.source = source
        self.warn = warn
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for skipped in range(len(self)):
            example = self.read((index + skipped) % len(self))
            if example is not None:
                return example
        raise ValueError(f"none of {self.source} can be read any more; look at the disk")

    def read(self, index: int) -> dict[str, Any] | None:
        """The picture, None if it cannot be read."""
        try:
            return self.source[index]
        except ValueError as error:
            if index not in self._told:
                self._told.add(index)
                self.warn(f"skipped: {error}")
            return None

    def __repr__(self) -> str:
        return repr(self.source)


def make_source(
    config: Config, split: str, resize_label: bool = False, keep_bad: bool = False
) -> FolderSource | SyntheticSource:
    """The pictures of `split` (train or val), drawn or in `config.data_dir`, checked by header."""
    if config.data_dir == SYNTHETIC:
        counts = {"train": config.synthetic_train_count, "val": config.synthetic_val_count}
        return SyntheticSource(SYNTHETIC_SEEDS[split], counts[split], config.image_size)
    pairs = find_pairs(config.data_dir, split, keep_bad)
    return FolderSource(pairs, config.image_size, resize_label, config.label_order)


def _share(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}; it must be a multiple of the {process_count} processes"
        )
    return batch_size // process_count


def make_train_loader(
    config: Config,
    process_index: int = 0,
    process_count: int = 1,
    warn: Callable[[str], None] | None = None,
) -> "grain.DatasetIterator":
    """Endless batches {"image": uint8 [B, S, S, 3], "label": uint8 [B, S, S]} of this process.

    B is batch_size / process_count. Every epoch is a new order, a function of config.seed and the
    epoch, and the epochs are one endless row. Process p takes the p-th part of every batch_size
    pictures: in a row the parts are the batch of a single process, place by place, as dropout's
    masks go by place. get_state() is a dict that JSON can hold, {"next_index": pictures taken}, and
    set_state() continues exactly there. With `warn` unreadable pictures are replaced, as
    SkippingSource does; else they raise ValueError.
    """
    # Here, not at the top: grain imports jax, which the rest of this module does without.
    import grain

    source = make_source(config, "train", resize_label=True, keep_bad=warn is not None)
    if warn:
        source = SkippingSource(source, warn)
    batch_size = _share(config.batch_size, process_count)
    # grain seeds epoch e with seed + e: without the hash, seed 1 would be seed 0 an epoch later.
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
    read_options = grain.ReadOptions(
        num_threads=config.num_workers,
        prefetch_buffer_size=max(2 * batch_size, config.num_workers),
    )
    pictures = grain.MapDataset.source(source).shuffle(seed).repeat()
    if process_count > 1:

        def read(taken: int) -> dict[str, Any]:
            step, row = divmod(taken, batch_size)
            return row_of_all[step * config.batch_size + process_index * batch_size + row]

        row_of_all, pictures = pictures, grain.MapDataset.range(sys.maxsize).map(read)
    pictures = pictures.map(lambda example: {key: example[key] for key in ("image", "label")})
    return iter(pictures.to_iter_dataset(read_options).batch(batch_size))


class EvalLoader:
    """Every picture once, in order, in batches of one size; iterating again starts anew.

    A batch is {"image": uint8 [B, S, S, 3], "label": uint8 [B, Hp, Wp], "size": int32 [B, 2],
    "name": list[str]}: masks at their own size (height, width), filled up with 255 at the bottom
    and right to a size all processes share. B is batch_size / process_count; batch number i of
    process p holds the p-th part of the i-th batch_size pictures. Places after the last picture
    hold a black image, label 255, size (1, 1) and name ""; with `warn`, so do unreadable pictures,
    which raise ValueError without.
    """

    def __init__(
        self,
        config: Config,
        split: str,
        process_index: int = 0,
        process_count: int = 1,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.source = make_source(config, split, keep_bad=warn is not None)
        self.read = SkippingSource(self.source, warn).read if warn else self.source.__getitem__
        self.config = config
        self.batch_size = _share(config.batch_size, process_count)
        self.process_index = process_index

    def __len__(self) -> int:
        return -(-len(self.source) // self.config.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        threads = self.config.num_workers
        return read_ahead(self._read_batch, range(len(self)), threads)

    def _read_batch(self, number: int) -> dict[str, Any]:
        start = number * self.config.batch_size
        everyones = range(start, min(start + self.config.batch_size, len(self.source)))
        first = self.process_index * self.batch_size
        batch = self._empty_batch(everyones)
        for row, index in enumerate(everyones[first : first + self.batch_size]):
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
        """A batch without pictures whose masks have room for those of `indices`."""
        largest = np.max([self.source.label_size(index) for index in indices], axis=0)
        height, width = -(-largest // PAD_MULTIPLE) * PAD_MULTIPLE
        count, image_size = self.batch_size, self.config.image_size
        return {
            "image": np.zeros((count, image_size, image_size, 3), np.uint8),
            "label": np.full((count, height, width), IGNORE_LABEL, np.uint8),
            "size": np.ones((count, 2), np.int32),
            "name": [""] * count,
        }


def make_eval_loader(
    config: Config,
    split: str = "val",
    process_index: int = 0,
    process_count: int = 1,
    warn: Callable[[str], None] | None = None,
) -> EvalLoader:
    """The batches of `split` in order, for this process. Raises ValueError for a bad folder."""
    return EvalLoader(config, split, process_index, process_count, warn)


def read_ahead(read: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """`map(read, items)` in threads, in order, at most 2 * num_threads results ahead."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending = deque()
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def main() -> int:
    """Command line: `--check DIR`."""
    import tyro

    from jaxparse.check_data import print_check

    return tyro.cli(print_check, prog="python -m jaxparse.data")


if __name__ == "__main__":
    run(main)
