"""From logits to pixels: upsampling tile by tile, windows, scales and mirror images averaged.

However large the picture, only one tile of its 19 probability maps exists at a time, and pictures
of all sizes share the compiled programs. Probabilities are averaged over scales and mirror images
as in mmsegmentation; unlike there, left and right classes are exchanged in the mirror image.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse.classes import MIRRORED
from jaxparse.models.ops.resize import apply_class_first, linear_weights
from jaxparse.parsing.network import highest_class

# Height and width of what is upsampled at once, in 19 float maps: 1.2 MB, where a photograph of 12
# megapixels would take 0.9 GB. A larger tile multiplies by more zeros: 256 takes twice as long.
TILE = 128


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


class Level(NamedTuple):
    """The network's logits of a picture at one scale, in R × K windows."""

    logits: Array  # float32 [R, K, F, h, w, C]; if F = 2, the second is the mirrored window's
    rows: tuple[int, ...]  # [R] where windows begin, in pixels of the picture at that scale
    columns: tuple[int, ...]  # [K]
    window: tuple[int, int]  # (height, width) of each
    size: tuple[int, int]  # (height, width) of the picture at that scale
    align_corners: bool = False


class Side(NamedTuple):
    """How a tile is upsampled on one axis, from the N windows that reach into it."""

    starts: Array  # int32 [N, F], the first of the window's logits that the tile needs
    matrices: Array  # float32 [N, F, TILE, cells]: from these `cells` logits to the tile's pixels


# (logits [R, K, F, h, w, C], rows, columns) of the windows of a Level that reach into a tile.
Part: TypeAlias = tuple[Array, Side, Side]


def _is_single(parts: Sequence[Part]) -> bool:
    """Whether there is nothing to average: then the highest logit has the highest probability."""
    return len(parts) == 1 and parts[0][0].shape[:3] == (1, 1, 1)


def _upsample(logits: Array, rows: Side, columns: Side, view: int) -> Array:
    """[F, h, w, C] -> [C, TILE, TILE], of one view; `rows` and `columns` are of one window."""
    height, width = rows.matrices.shape[-1], columns.matrices.shape[-1]
    place = view, rows.starts[0], columns.starts[view], 0
    cells = jax.lax.dynamic_slice(logits, place, (1, height, width, logits.shape[-1]))
    return apply_class_first(cells, rows.matrices[0], columns.matrices[view])[0]


def _probabilities(parts: Sequence[Part]) -> Array:
    """float32 [C, TILE, TILE], the mean over scales of the mean over windows and mirror images.

    Softmax comes before left and right are exchanged, so that a mirrored picture gives the same
    sums, bit for bit.
    """

    def add(total: tuple[Array, Array], window: Part) -> tuple[tuple[Array, Array], None]:
        logits, rows, columns = window
        shown = jax.nn.softmax(_upsample(logits, rows, columns, 0), axis=0)
        if len(logits) == 2:
            mirrored = jax.nn.softmax(_upsample(logits, rows, columns, 1), axis=0)
            shown = (shown + mirrored[MIRRORED]) / 2
        # A pixel's row of the matrix is zero outside the window and sums to 1 inside.
        rows, columns = (side.matrices[0].sum(-1) > 0.5 for side in (rows, columns))
        inside = rows[:, None] & columns
        return (total[0] + jnp.where(inside, shown, 0), total[1] + inside), None

    mean = 0
    for logits, rows, columns in parts:
        grid = logits.shape[:2]
        windows = (
            logits.reshape(-1, *logits.shape[2:]),
            jax.tree.map(lambda x, n=grid[1]: jnp.repeat(x, n, axis=0), rows),
            jax.tree.map(lambda x, n=grid[0]: jnp.concatenate([x] * n), columns),
        )
        start = (jnp.zeros((logits.shape[-1], TILE, TILE)), jnp.zeros((TILE, TILE)))
        (total, count), _ = jax.lax.scan(add, start, windows)
        mean += total / jnp.maximum(count, 1) / len(parts)
    return mean


@jax.jit
def tile_classes(parts: Sequence[Part]) -> Array:
    """uint8 [TILE, TILE]."""
    if _is_single(parts):
        logits, rows, columns = parts[0]
        first = (Side(*(x[0] for x in side)) for side in (rows, columns))
        return highest_class(_upsample(logits[0, 0], *first, 0)[None])[0]
    return highest_class(_probabilities(parts)[None])[0]


@jax.jit
def tile_probability(parts: Sequence[Part], index: Array) -> Array:
    """float32 [TILE, TILE] of one class."""
    return _probabilities(parts)[index]


@jax.jit
def tile_confidence(parts: Sequence[Part]) -> Array:
    """float32 [TILE, TILE]: the highest probability."""
    return _probabilities(parts).max(0)


def window_matrix(
    in_size: int,
    start: int,
    window: int,
    total: int,
    out_size: int,
    align_corners: bool = False,
) -> np.ndarray:
    """Bilinear resizing of a window on one axis as a matrix float64 [out_size, in_size].

    The window covers `window` of the picture's `total` pixels at that scale, from `start` on, and
    has `in_size` logits; the whole picture is resized to `out_size` pixels. Rows of pixels outside
    the window are zero. A window over the whole picture gives `resize.resize_matrix`.
    """
    places = (np.arange(out_size) + 0.5) * (total / out_size) - start
    if align_corners:
        centres = np.arange(out_size) * ((total - 1) / max(out_size - 1, 1)) - start
        weights = linear_weights(centres * ((in_size - 1) / (window - 1)), in_size)
    else:
        weights = linear_weights(places * (in_size / window) - 0.5, in_size)
    return np.where(((places >= 0) & (places < window))[:, None], weights, 0)


@lru_cache(maxsize=32)
def _axis(
    in_size: int,
    starts: tuple[int, ...],
    window: int,
    total: int,
    out_size: int,
    flip: bool,
    align_corners: bool,
) -> list[tuple[int, int, Side]]:
    """Per tile of an axis: the windows that reach it, from first to end - 1, and its Side.

    Tiles with equal numbers of windows and cells share a compiled program. The matrices of mirrored
    windows mirror the pixels back.
    """
    tiles = -(-out_size // TILE)
    # [N, out_size, in_size], in pixels of the picture at its scale.
    sizes = window, total, out_size, align_corners
    matrices = [[window_matrix(in_size, first, *sizes) for first in starts]]
    if flip:
        ends = (total - window - first for first in starts)
        mirrored = (window_matrix(in_size, end, *sizes) for end in ends)
        matrices.append([matrix[::-1] for matrix in mirrored])
    stacked = np.stack(matrices, axis=1).astype(np.float32)
    stacked = np.pad(stacked, ((0, 0), (0, 0), (0, tiles * TILE - out_size), (0, 0)))
    stacked = stacked.reshape(*stacked.shape[:2], tiles, TILE, in_size)
    reached = stacked[:, 0].any((2, 3))  # [N, tiles]
    ranges = [(int(tile[0]), int(tile[-1]) + 1) for tile in map(np.flatnonzero, reached.T)]
    # Keep only the nonzero columns, rounded up to a multiple of 8, so that pictures of all sizes
    # share programs.
    used = stacked.any(3)  # [N, F, tiles, in_size]
    lowest = used.argmax(-1)
    widest = (in_size - used[..., ::-1].argmax(-1) - lowest)[used.any(-1)].max()
    cells = min(in_size, -(-int(widest) // 8) * 8)
    lowest = np.minimum(lowest, in_size - cells).astype(np.int32)
    kept = lowest[..., None] + np.arange(cells)
    stacked = np.take_along_axis(stacked, kept[:, :, :, None], 4)
    return [
        (first, end, jax.device_put(Side(lowest[first:end, :, tile], stacked[first:end, :, tile])))
        for tile, (first, end) in enumerate(ranges)
    ]


def _tiles(levels: Sequence[Level], size: tuple[int, int]) -> Iterator[Iterator[list[Part]]]:
    """The parts of each tile of a picture, in rows of tiles, each cut out when asked for."""
    axes = []
    for level in levels:
        views, height, width = level.logits.shape[2:5]
        (top, left), (bottom, right), align = level.window, level.size, level.align_corners
        rows = _axis(height, level.rows, top, bottom, size[0], False, align)
        columns = _axis(width, level.columns, left, right, size[1], views == 2, align)
        axes.append((level.logits, rows, columns))

    def part(logits: Array, row: tuple, column: tuple) -> Part:
        (top, bottom, rows), (left, right, columns) = row, column
        if (bottom - top, right - left) != logits.shape[:2]:
            logits = logits[top:bottom, left:right]
        return logits, rows, columns

    for y in range(len(axes[0][1])):
        yield ([part(x, r[y], c[z]) for x, r, c in axes] for z in range(len(axes[0][2])))


def assemble(
    levels: Sequence[Level], size: tuple[int, int], compute: Callable[[Sequence[Part]], Array]
) -> np.ndarray:
    """The picture [*size], tile by tile, from `compute`: tile_classes, tile_confidence, …"""
    whole = all(level.logits.shape[:2] == (1, 1) for level in levels)
    # With windows, every tile has a copy of the logits it needs: wait for each tile, or the copies
    # pile up on the device.
    fetch = (lambda tile: tile) if whole else jax.device_get
    tiles = [[fetch(compute(parts)) for parts in row] for row in _tiles(levels, size)]
    return np.block(jax.device_get(tiles))[: size[0], : size[1]]
