"""A trained network on pictures of any size: masks, probabilities, overlays.

    from jaxparse import Parser
    parser = Parser.load("weights.safetensors")
    result = parser("photo.jpg")

A picture is shown to the network whole, squashed to its input size, or in windows at its own
resolution; at one scale or several; with its mirror image or without. Probabilities are averaged.
However large the picture, the answer is upsampled tile by tile, and pictures of all sizes share the
compiled programs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from jaxparse.checkpoint import load_network
from jaxparse.classes import MIRRORED, NAMES, NUM_CLASSES
from jaxparse.config import Config
from jaxparse.data import resize_image
from jaxparse.images import as_picture, write_mask
from jaxparse.metrics import highest_class
from jaxparse.models.functional import apply_class_first, linear_weights, resize_bilinear
from jaxparse.overlay import overlay
from jaxparse.steps import make_logits_step, make_mesh, replicated

# Height and width of what is upsampled at once, in 19 float maps: 5 MB, where a photograph of 12
# megapixels would take 0.9 GB.
TILE = 256

Source: TypeAlias = str | Path | Image.Image | np.ndarray  # arrays: uint8 [H, W, 3] RGB or [H, W]


@dataclass(frozen=True)
class TestTime:
    """How a picture is shown to the network."""

    __test__ = False  # no test of pytest's

    scales: tuple[float, ...] = (1.0,)
    """Scales of the network's input whose probabilities are averaged, such as 0.75 1 1.25."""
    flip: bool = False
    """Average with the mirrored picture as well, left and right classes exchanged."""
    window: int = 0
    """Side in pixels of windows that slide over the picture at its own resolution (smaller pictures
    are enlarged to it); 0: the picture as a whole, resized to the network's input."""
    stride: int = 0
    """Pixels between windows, at most; 0: three quarters of the window."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            raise ValueError(f"scales are {self.scales}; give some, each between 0.1 and 4")
        if self.window and self.window < 32:
            raise ValueError(f"window is {self.window}; it must be at least 32 pixels, or 0")
        if not 0 <= self.stride <= self.window:
            raise ValueError(
                f"stride is {self.stride}; it must be at most the window, {self.window} pixels, "
                "or pixels between windows are left out"
            )


PLAIN = TestTime()


class Picture(NamedTuple):
    """A picture as the network takes it."""

    source: Source
    images: list[np.ndarray]  # uint8 [S, S, 3], or the picture at every scale to cut windows from
    size: tuple[int, int]  # its own (height, width)
    label: np.ndarray | None = None  # its true mask, handed through


class Level(NamedTuple):
    """What the network made of a picture at one scale, in R × K windows."""

    logits: Array  # float32 [R, K, F, h, w, C]; of F = 2 the second is of the mirrored window
    rows: tuple[int, ...]  # [R] where windows begin, in pixels of the picture at that scale
    columns: tuple[int, ...]  # [K]
    window: tuple[int, int]  # (height, width) of each
    size: tuple[int, int]  # (height, width) of the picture at that scale


# (logits [R, K, F, h, w, C], rows [R, TILE, h], columns [K, F, TILE, w]) of the windows of a Level
# that reach into a tile.
Part: TypeAlias = tuple[Array, Array, Array]


def _is_plain(parts: Sequence[Part]) -> bool:
    """Whether there is nothing to average: the highest logit is then the highest probability."""
    return len(parts) == 1 and parts[0][0].shape[:3] == (1, 1, 1)


def _upsample(logits: Array, rows: Array, columns: Array) -> Array:
    """[h, w, C] -> [C, TILE, TILE]."""
    return apply_class_first(logits[None], rows, columns)[0]


def _probabilities(parts: Sequence[Part]) -> Array:
    """float32 [C, TILE, TILE], the mean over scales of the mean over windows and mirror images.

    Softmax comes before left and right are exchanged, so that a mirrored picture gives the same
    sums, bit for bit.
    """

    def add(total: tuple[Array, Array], window: Part) -> tuple[tuple[Array, Array], None]:
        logits, rows, columns = window
        shown = jax.nn.softmax(_upsample(logits[0], rows, columns[0]), axis=0)
        if len(logits) == 2:
            mirrored = jax.nn.softmax(_upsample(logits[1], rows, columns[1]), axis=0)
            shown = (shown + mirrored[MIRRORED]) / 2
        # Rows of pixels outside of the window are zero, within they sum to 1.
        inside = (rows.sum(-1) > 0.5)[:, None] & (columns[0].sum(-1) > 0.5)
        return (total[0] + jnp.where(inside, shown, 0), total[1] + inside), None

    mean = 0
    for logits, rows, columns in parts:
        grid = logits.shape[:2]
        windows = (
            logits.reshape(-1, *logits.shape[2:]),
            jnp.repeat(rows, grid[1], axis=0),
            jnp.tile(columns, (grid[0], 1, 1, 1)),
        )
        start = (jnp.zeros((logits.shape[-1], TILE, TILE)), jnp.zeros((TILE, TILE)))
        (total, count), _ = jax.lax.scan(add, start, windows)
        mean += total / jnp.maximum(count, 1) / len(parts)
    return mean


@jax.jit
def _tile_classes(parts: Sequence[Part]) -> Array:
    """uint8 [TILE, TILE]."""
    if _is_plain(parts):
        logits, rows, columns = parts[0]
        return highest_class(_upsample(logits[0, 0, 0], rows[0], columns[0, 0])[None])[0]
    return highest_class(_probabilities(parts)[None])[0]


@jax.jit
def _tile_probability(parts: Sequence[Part], index: Array) -> Array:
    """float32 [TILE, TILE] of one class."""
    return _probabilities(parts)[index]


@jax.jit
def _tile_confidence(parts: Sequence[Part]) -> Array:
    """float32 [TILE, TILE]: the highest probability."""
    return _probabilities(parts).max(0)


def window_matrix(in_size: int, start: int, window: int, total: int, out_size: int) -> np.ndarray:
    """Bilinear resizing of a window on one axis as a matrix float64 [out_size, in_size].

    The window begins at `start` of `total` pixels, its logits are `in_size`, the picture is
    `out_size`. Rows of pixels outside of the window are zero. A window on everything gives
    `functional.resize_matrix`.
    """
    places = (np.arange(out_size) + 0.5) * (total / out_size) - start
    weights = linear_weights(places * (in_size / window) - 0.5, in_size)
    return np.where(((places >= 0) & (places < window))[:, None], weights, 0)


@lru_cache(maxsize=32)
def _axis(
    in_size: int, starts: tuple[int, ...], window: int, total: int, out_size: int, flip: bool
) -> list[tuple[int, int, Array]]:
    """Per tile of an axis: the first and the last + 1 of the windows that reach into it, matrices.

    The matrices are [N, F, TILE, in_size]. Tiles that as many windows reach share a program. The mirrored window's take the pixels of the tile from
    the other end of the mirrored picture, so that they are those of a picture that is mirrored.
    """
    tiles = -(-out_size // TILE)
    # [N, out_size, in_size], in pixels of the picture at its scale.
    matrices = [[window_matrix(in_size, first, window, total, out_size) for first in starts]]
    if flip:
        ends = (total - window - first for first in starts)
        mirrored = (window_matrix(in_size, end, window, total, out_size) for end in ends)
        matrices.append([matrix[::-1] for matrix in mirrored])
    stacked = np.stack(matrices, axis=1).astype(np.float32)
    stacked = np.pad(stacked, ((0, 0), (0, 0), (0, tiles * TILE - out_size), (0, 0)))
    stacked = stacked.reshape(*stacked.shape[:2], tiles, TILE, in_size)
    reached = stacked[:, 0].any((2, 3))  # [N, tiles]
    ranges = [(int(tile[0]), int(tile[-1]) + 1) for tile in map(np.flatnonzero, reached.T)]
    return [
        (first, end, jax.device_put(stacked[first:end, :, tile]))
        for tile, (first, end) in enumerate(ranges)
    ]


def _tiles(levels: Sequence[Level], size: tuple[int, int]) -> Iterator[Iterator[list[Part]]]:
    """The parts of each tile of a picture, in rows of tiles, cut out as they are asked for."""
    axes = []
    for level in levels:
        views, height, width = level.logits.shape[2:5]
        rows = _axis(height, level.rows, level.window[0], level.size[0], size[0], False)
        columns = _axis(
            width, level.columns, level.window[1], level.size[1], size[1], flip=views == 2
        )
        axes.append((level.logits, rows, columns))

    def part(logits: Array, row: tuple, column: tuple) -> Part:
        (top, bottom, rows), (left, right, columns) = row, column
        if (bottom - top, right - left) != logits.shape[:2]:
            logits = logits[top:bottom, left:right]
        return logits, rows[:, 0], columns

    for y in range(len(axes[0][1])):
        yield ([part(x, r[y], c[z]) for x, r, c in axes] for z in range(len(axes[0][2])))


class Parsing:
    """What the network made of a picture.

    `mask` is uint8 [H, W] with the classes 0..18, at the picture's own size.
    """

    def __init__(self, picture: Picture, levels: Sequence[Level]) -> None:
        self.source = picture.source
        self.label = picture.label
        self.levels = levels
        self.size = picture.size
        self.mask = self._assemble(_tile_classes)

    def _assemble(self, compute: Callable[[Sequence[Part]], Array]) -> np.ndarray:
        whole = all(level.logits.shape[:2] == (1, 1) for level in self.levels)
        # Of windows, what a tile needs is cut out: one at a time, or it would pile up before the
        # device.
        fetch = (lambda tile: tile) if whole else jax.device_get
        tiles = [[fetch(compute(parts)) for parts in row] for row in _tiles(self.levels, self.size)]
        return np.block(jax.device_get(tiles))[: self.size[0], : self.size[1]]

    def probability(self, name: str) -> np.ndarray:
        """float32 [H, W], 0..1: the probability of the class of that name."""
        if name not in NAMES:
            raise ValueError(f"there is no class {name}; there are: {', '.join(NAMES)}")
        return self._assemble(partial(_tile_probability, index=NAMES.index(name)))

    def confidence(self) -> np.ndarray:
        """float32 [H, W], 0..1: the probability of the class that the mask has."""
        return self._assemble(_tile_confidence)

    def area(self) -> dict[str, float]:
        """The share of the picture, 0..1, that each class covers, of those that occur."""
        pixels = np.bincount(self.mask.ravel(), minlength=NUM_CLASSES)
        return {
            name: float(number / self.mask.size)
            for name, number in zip(NAMES, pixels, strict=True)
            if number
        }

    def overlay(self) -> Image.Image:
        """The picture under the mask's colours, with a legend at its right."""
        return Image.fromarray(overlay(np.asarray(as_picture(self.source)), self.mask))

    def save(self, path: str | Path) -> None:
        """Writes the mask as a palette PNG whose indices are the classes."""
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"{path} is no name for a mask; it must end in .png")
        write_mask(Path(path), self.mask)


class Parser:
    """A network with its weights, ready for pictures."""

    def __init__(
        self,
        config: Config,
        params: dict[str, Any],
        batch_stats: dict[str, Any],
        test_time: TestTime = PLAIN,
    ) -> None:
        """Of `config` it takes the network, image_size and batch_size, the pictures at once.

        The batch is divided among this process's devices if it is a multiple of their number.
        """
        self.test_time = test_time
        self.image_size = config.image_size
        self.batch_size = config.batch_size
        devices = jax.local_devices()
        mesh = make_mesh(devices if config.batch_size % len(devices) == 0 else devices[:1])
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        weights = jax.device_put((params, batch_stats), replicated(mesh))
        self._network = partial(make_logits_step(config), *weights)

    @classmethod
    def load(
        cls, weights: str | Path, test_time: TestTime = PLAIN, batch_size: int = 4
    ) -> "Parser":
        """The network of a weights file (.safetensors) or of a run's folder (its best weights).

        Raises ValueError if the file does not exist, is none of this package or damaged.
        """
        is_run = Path(weights).is_dir()
        config, *arrays = load_network(**{"workdir" if is_run else "weights": str(weights)})
        return cls(replace(config, batch_size=batch_size), *arrays, test_time)

    def __call__(self, pictures: Source | Sequence[Source]) -> "Parsing | list[Parsing]":
        """The parsing of a picture (a path, a PIL image or an array), or of each of several.

        Raises ValueError if one cannot be read.
        """
        if isinstance(pictures, Source):
            return next(self.parse([self.prepare(pictures)]))
        return list(self.parse(map(self.prepare, pictures)))

    def prepare(self, source: Source, label: np.ndarray | None = None) -> Picture:
        """Reads and resizes a picture, uncompiled: for threads that read ahead."""
        picture = as_picture(source)
        size = picture.size[::-1]
        if not self.test_time.window:
            return Picture(source, [resize_image(picture, self.image_size)], size, label)
        window = self.test_time.window
        images = []
        for scale in self.test_time.scales:
            scale = max(scale, window / min(size))
            scaled = tuple(max(window, round(side * scale)) for side in picture.size)
            if scaled == picture.size:
                images.append(np.asarray(picture))
            else:
                images.append(np.asarray(picture.resize(scaled, Image.Resampling.BILINEAR)))
        return Picture(source, images, size, label)

    def parse(self, pictures: Iterable[Picture | ValueError]) -> Iterator[Parsing | ValueError]:
        """Parsings, in order; errors are handed on, out of turn.

        Pictures as a whole go through the network in batches of one size.
        """
        batch: list[Picture] = []
        for picture in pictures:
            if isinstance(picture, ValueError):
                yield picture
            elif self.test_time.window:
                yield Parsing(picture, [self._windows(image) for image in picture.images])
            else:
                batch.append(picture)
            if len(batch) == self.batch_size:
                yield from self._parse_batch(batch)
                batch = []
        yield from self._parse_batch(batch)

    def _parse_batch(self, batch: list[Picture]) -> Iterator[Parsing]:
        if not batch:
            return
        images = np.stack([picture.images[0] for picture in batch])
        sides = [round(self.image_size * scale) for scale in self.test_time.scales]
        logits = [self._logits(images, side) for side in sides]
        for index, picture in enumerate(batch):
            yield Parsing(
                picture,
                [
                    Level(x[index][None, None], (0,), (0,), (side, side), (side, side))
                    for x, side in zip(logits, sides, strict=True)
                ],
            )

    def _windows(self, image: np.ndarray) -> Level:
        side = self.test_time.window
        stride = self.test_time.stride or max(1, side * 3 // 4)
        size = image.shape[:2]
        rows, columns = (window_starts(length, side, stride) for length in size)
        places = [(row, column) for row in rows for column in columns]
        logits = []
        for first in range(0, len(places), self.batch_size):
            batch = places[first : first + self.batch_size]
            cut = np.stack([image[y : y + side, x : x + side] for y, x in batch])
            logits.append(self._logits(cut, side)[: len(batch)])
        logits = jnp.concatenate(logits).reshape(len(rows), len(columns), *logits[0].shape[1:])
        return Level(logits, rows, columns, (side, side), size)

    def _logits(self, images: np.ndarray, side: int) -> Array:
        """uint8 [≤ batch_size, S, S, 3] -> float32 [batch_size, F, h, w, C] at that input size."""
        images = np.pad(images, ((0, self.batch_size - len(images)), (0, 0), (0, 0), (0, 0)))
        views = [images, images[:, :, ::-1]] if self.test_time.flip else [images]
        logits = []
        for view in views:
            view = jax.device_put(np.ascontiguousarray(view), self._sharding)
            logits.append(self._network(view if side == view.shape[1] else _resize(view, side)))
        device = self._sharding.mesh.devices.flat[0]
        return jax.device_put(jnp.stack(logits, axis=1), device)


@partial(jax.jit, static_argnames="side")
def _resize(images: Array, side: int) -> Array:
    """uint8 [B, S, S, 3] -> float32 [B, side, side, 3], without antialiasing, as OpenCV does."""
    return resize_bilinear(images.astype(jnp.float32), (side, side))


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Where windows begin on an axis: at both ends and evenly between, at most `stride` apart.

    The same from either end, so that a mirrored picture is cut into the same windows.
    """
    spare = length - window
    gaps = -(-spare // stride)
    if spare % 2 and gaps % 2 == 0:
        gaps += 1  # else the middle window would lie half a pixel off
    if not gaps:
        return (0,)
    half = [-(-spare * i // gaps) for i in range(gaps // 2 + 1)]
    return (*half, *(spare - start for start in reversed(half[: (gaps + 1) // 2])))
