"""Random-access sources of pictures with masks: pairs on disk, or drawn faces."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from jaxparse.classes import CELEBAMASK, Classes, becomes, convert_label, exchange_sides
from jaxparse.config import SYNTHETIC, Config
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.folders import Pair, find_pairs
from jaxparse.data.masks import read_label, read_pair
from jaxparse.data.mirrored import mirrored_masks

SYNTHETIC_SEEDS = {"train": 0, "val": 1}  # not config.seed: every run sees the same faces


def resize_image(
    picture: Image.Image, image_size: int, resize_filter: str = "bilinear"
) -> np.ndarray:
    """The picture as a network takes it, uint8 [S, S, 3], by its Config's `resize_filter`."""
    size = (image_size, image_size)
    if picture.size == size:  # Pillow copies where nothing changes
        return np.asarray(picture)
    if resize_filter == "opencv":
        # Bilinear between the four nearest pixels, however much the picture shrinks.
        across, down = (side / image_size for side in picture.size)
        affine = (across, 0, 0, 0, down, 0)
        how = {"method": Image.Transform.AFFINE, "data": affine}
        return np.asarray(picture.transform(size, resample=Image.Resampling.BILINEAR, **how))
    return np.asarray(picture.resize(size, Image.Resampling[resize_filter.upper()]))


class FolderSource:
    """Pairs as {"image": uint8 [S, S, 3], "label": uint8 [S, S] or [H, W], "name": str}.

    Images are resized by `resize_filter`; masks by nearest neighbour if `resize_label`, otherwise
    they keep their own size. Reading raises ValueError naming the bad file.
    """

    def __init__(
        self,
        pairs: list[Pair],
        image_size: int,
        resize_label: bool,
        classes: Classes = CELEBAMASK,
        labels_are: Classes | None = None,
        mirrored: frozenset[str] = frozenset(),
        resize_filter: str = "bilinear",
    ) -> None:
        """Masks are read as those of `classes`, from the table `labels_are` if that is another one;
        `mirrored` are the names of masks whose left and right are exchanged on reading.
        """
        self.pairs = pairs
        self.image_size = image_size
        self.resize_label = resize_label
        self.classes = classes
        self.labels_are = labels_are
        self.mirrored = mirrored
        self.resize_filter = resize_filter

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture, label = self.read(index)
        size = (self.image_size, self.image_size)
        if self.resize_label and label.shape != size:
            label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
        image = resize_image(picture, self.image_size, self.resize_filter)
        return {"image": image, "label": label, "name": self.name(index)}

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The picture and its mask, uint8 [H, W], at their own size."""
        pair = self.pairs[index]
        picture, label = read_pair(pair.image, pair.label, self.classes, self.labels_are)
        return picture, self._repaired(index, label)

    def label(self, index: int) -> np.ndarray:
        """The mask alone, uint8 [H, W], at its own size."""
        label = read_label(self.pairs[index].label, self.classes, self.labels_are)
        return self._repaired(index, label)

    def _repaired(self, index: int, label: np.ndarray) -> np.ndarray:
        mirrored = self.name(index) in self.mirrored
        return exchange_sides(label, self.classes) if mirrored else label

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

    def __init__(
        self, seed: int, count: int, image_size: int, classes: Classes = CELEBAMASK
    ) -> None:
        becomes(CELEBAMASK, classes)  # raises if it cannot
        self.seed = seed
        self.count = count
        self.image_size = image_size
        self.classes = classes
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
            image, label = draw_face(self.seed, index, self.image_size)
            self._drawn[index] = image, convert_label(label, CELEBAMASK, self.classes)
        return self._drawn[index]

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The picture and its mask, uint8 [S, S]."""
        image, label = self._draw(index)
        return Image.fromarray(image), label

    def label(self, index: int) -> np.ndarray:
        """The mask alone, uint8 [S, S]."""
        return self._draw(index)[1]

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
    """A source whose unreadable pictures are each replaced by the next readable one.

    The replacement depends only on the files, so a resumed run sees the same. `warn` gets one line
    per bad file, from the reading thread. Raises ValueError if no picture can be read.
    """

    def __init__(self, source: FolderSource, warn: Callable[[str], None]) -> None:
        self.source = source
        self.warn = warn
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for skipped in range(len(self)):
            example = self.read((index + skipped) % len(self))
            if example is not None:
                return example
        raise ValueError(f"none of {self.source} can be read; check the disk")

    def read(self, index: int) -> dict[str, Any] | None:
        """The picture, or None if it cannot be read."""
        try:
            return self.source[index]
        except ValueError as error:
            if index not in self._reported:
                self._reported.add(index)
                self.warn(f"skipped: {error}")
            return None

    def __repr__(self) -> str:
        return repr(self.source)


def make_source(
    config: Config, split: str, resize_label: bool = False, keep_bad: bool = False
) -> FolderSource | SyntheticSource:
    """The pictures of `split` (train or val): drawn, or those in `config.data_dir`, whose headers
    are checked; `keep_bad` as in `find_pairs`. Raises ValueError as that and `mirrored_masks` do.
    """
    if config.data_dir == SYNTHETIC:
        if config.mirrored_masks != "none":
            raise ValueError("drawn faces have no mirrored masks; leave out --mirrored-masks")
        counts = {"train": config.synthetic_train_count, "val": config.synthetic_val_count}
        seed, size = SYNTHETIC_SEEDS[split], config.image_size
        return SyntheticSource(seed, counts[split], size, config.classes)
    pairs = find_pairs(config.data_dir, split, keep_bad)
    mirrored = mirrored_masks(config)[split]
    return FolderSource(
        pairs,
        config.image_size,
        resize_label,
        config.classes,
        config.labels_are,
        mirrored,
        config.resize_filter,
    )
