"""From logits to pixels: upsampling tile by tile, scales and mirror images averaged.

However large the picture, only one tile of its probability maps exists at a time, and pictures
of all sizes share the compiled programs. Probabilities are averaged over scales and mirror images
as in mmsegmentation; unlike there, left and right classes are exchanged in the mirror image. Those
of classes that are one in the table asked for are then summed.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse.classes import Classes, becomes
from jaxparse.models.ops.resize import apply_class_first, resize_matrix
from jaxparse.parsing.network import highest_class

# Height and width of what is upsampled at once, in 19 float maps 1.2 MB, where a photograph of 12
# megapixels would take 0.9 GB. A larger tile multiplies by more zeros: 256 takes twice as long.
TILE = 128


class Level(NamedTuple):
    """The network's logits of a picture at one scale."""

    logits: Array  # float32 [F, h, w, C]; if F = 2, the second is the mirrored picture's
    align_corners: bool = False


class Side(NamedTuple):
    """How a tile is upsampled on one axis, for each of the F views."""

    starts: Array  # int32 [F], the first of the logits that the tile needs
    matrices: Array  # float32 [F, TILE, cells]: from these `cells` logits to the tile's pixels


class Part(NamedTuple):
    """What a tile needs of a Level."""

    logits: Array  # float32 [F, h, w, C]
    rows: Side
    columns: Side

    def upsample(self, view: int) -> Array:
        """float32 [C, TILE, TILE], the logits of one view."""
        height, width = self.rows.matrices.shape[-1], self.columns.matrices.shape[-1]
        place = view, self.rows.starts[view], self.columns.starts[view], 0
        cells = (1, height, width, self.logits.shape[-1])
        cells = jax.lax.dynamic_slice(self.logits, place, cells)
        return apply_class_first(cells, self.rows.matrices[view], self.columns.matrices[view])[0]


def _probabilities(parts: Sequence[Part], network: Classes, classes: Classes) -> Array:
    """float32 [C, TILE, TILE] of `classes`, the mean over scales and mirror images.

    Softmax comes before left and right are exchanged, so that a mirrored picture gives the same
    sums, bit for bit.
    """
    mean = 0
    for part in parts:
        shown = jax.nn.softmax(part.upsample(0), axis=0)
        if len(part.logits) == 2:
            mirrored = jax.nn.softmax(part.upsample(1), axis=0)
            shown = (shown + mirrored[network.mirrored]) / 2
        mean += shown / len(parts)
    if network.names == classes.names:
        return mean
    places = np.array(becomes(network, classes))
    # Out of bounds, the ignored ones are dropped.
    return jnp.zeros((len(classes), *mean.shape[1:])).at[places].add(mean, mode="drop")


# Of `network`'s logits, in the table `classes` that it can become.
of_classes = partial(jax.jit, static_argnames=("network", "classes"))


@of_classes
def tile_classes(parts: Sequence[Part], network: Classes, classes: Classes) -> Array:
    """uint8 [TILE, TILE]."""
    if len(parts) == 1 and len(parts[0].logits) == 1 and network.names == classes.names:
        # Nothing to average: the highest logit has the highest probability.
        return highest_class(parts[0].upsample(0)[None])[0]
    return highest_class(_probabilities(parts, network, classes)[None])[0]


@of_classes
def tile_probability(
    parts: Sequence[Part], network: Classes, classes: Classes, chosen: Array
) -> Array:
    """float32 [TILE, TILE] of all classes together where `chosen` [C] is 1, and not 0."""
    return (_probabilities(parts, network, classes) * chosen[:, None, None]).sum(0)


@of_classes
def tile_confidence(parts: Sequence[Part], network: Classes, classes: Classes) -> Array:
    """float32 [TILE, TILE]: the highest probability."""
    return _probabilities(parts, network, classes).max(0)


@lru_cache(maxsize=32)
def _axis(
    in_size: int, out_size: int, mirrored: tuple[bool, ...], align_corners: bool
) -> list[Side]:
    """The Side of each tile of an axis; the matrices of mirrored views mirror the pixels back.

    Tiles with equal numbers of cells share a compiled program.
    """
    tiles = -(-out_size // TILE)
    matrix = resize_matrix(in_size, out_size, align_corners=align_corners).astype(np.float32)
    views = np.stack([matrix[::-1] if view else matrix for view in mirrored])
    views = np.pad(views, ((0, 0), (0, tiles * TILE - out_size), (0, 0)))
    views = views.reshape(len(views), tiles, TILE, in_size)
    # Keep only the nonzero columns, rounded up to a multiple of 8, so that pictures of all sizes
    # share programs.
    used = views.any(2)  # [F, tiles, in_size]
    lowest = used.argmax(-1)
    widest = (in_size - used[..., ::-1].argmax(-1) - lowest).max()
    cells = min(in_size, -(-int(widest) // 8) * 8)
    lowest = np.minimum(lowest, in_size - cells).astype(np.int32)
    kept = lowest[..., None] + np.arange(cells)
    views = np.take_along_axis(views, kept[:, :, None], 3)
    return [jax.device_put(Side(lowest[:, tile], views[:, tile])) for tile in range(tiles)]


def assemble(
    levels: Sequence[Level], size: tuple[int, int], compute: Callable[[Sequence[Part]], Array]
) -> np.ndarray:
    """The picture [*size], tile by tile, from `compute`: tile_classes, tile_confidence, …"""
    scales = []
    for logits, align_corners in levels:
        views, height, width = logits.shape[:3]
        rows = _axis(height, size[0], (False,) * views, align_corners)
        columns = _axis(width, size[1], (False, True)[:views], align_corners)
        scales.append((logits, rows, columns))

    def tile(y: int, x: int) -> Array:
        return compute([Part(logits, rows[y], columns[x]) for logits, rows, columns in scales])

    down, across = (range(-(-length // TILE)) for length in size)
    tiles = [[tile(y, x) for x in across] for y in down]
    return np.block(jax.device_get(tiles))[: size[0], : size[1]]
