"""From the logits of aligned crops to the pixels of their photograph, tile by tile.

As `tiles`, for crops that lie at any place, angle and scale: a pixel's logits are interpolated
between the four nearest of the crop.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse.parsing.alignment import corners, invert
from jaxparse.parsing.tiles import TILE, Level


class PlacedPart(NamedTuple):
    """What a tile needs of a Level, in place of `tiles.Part`."""

    logits: Array  # float32 [F, h, w, C]; if F = 2, the second is the mirrored crop's
    matrix: np.ndarray  # float32 [2, 3]: the tile's pixels -> column and row among the logits

    def upsample(self, view: int) -> Array:
        """float32 [C, TILE, TILE], the logits of one view; beyond the crop those of its border."""
        logits = self.logits[view]
        height, width = logits.shape[:2]
        columns, rows = _places(self.matrix)
        columns = width - 1 - columns if view else columns
        top, bottom, down = _between(rows, height)
        left, right, across = _between(columns, width)
        upper = _mix(logits[top, left], logits[top, right], across)
        lower = _mix(logits[bottom, left], logits[bottom, right], across)
        return jnp.moveaxis(_mix(upper, lower, down), -1, 0)


class Placed(NamedTuple):
    """An aligned crop in its photograph."""

    levels: Sequence[Level]  # its logits at each scale
    alignment: np.ndarray  # of `alignment.align`
    size: int  # its side in pixels, as the network saw it
    box: tuple[float, float, float, float]  # of the face itself: left, top, right, bottom

    def touches(self, tile: tuple[int, int]) -> bool:
        """Whether the tile that begins at (row, column) may have pixels of the crop."""
        first, quad = np.array(tile[::-1]), corners(self.alignment)
        return bool((quad.max(0) > first).all() and (quad.min(0) < first + TILE).all())

    def to_crop(self, tile: tuple[int, int]) -> np.ndarray:
        """float64 [2, 3]: pixels of the tile -> (u, v) in the crop, 0..1."""
        matrix = invert(self.alignment)
        matrix[:, 2] += matrix[:, :2] @ tile[::-1]
        return matrix

    def part(self, level: Level, tile: tuple[int, int]) -> PlacedPart:
        """The crop in a tile."""
        cells = np.array(level.logits.shape[2:0:-1], float)  # w h
        offset = np.full(2, 0.5)
        if level.align_corners:  # the centres of the corners' pixels and logits meet
            steps = (cells - 1) / (self.size - 1)
            cells, offset = self.size * steps, 0.5 * steps
        matrix = cells[:, None] * self.to_crop(tile)
        matrix[:, 2] -= offset
        return PlacedPart(level.logits, matrix.astype(np.float32))


def _centres() -> tuple[np.ndarray, np.ndarray]:
    """x and y of the centres of a tile's pixels, float32 [TILE] and [TILE, 1]."""
    centres = np.arange(TILE, dtype=np.float32) + 0.5
    return centres, centres[:, None]


def _places(matrix: Array) -> tuple[Array, Array]:
    """Where those centres fall, float32 [TILE, TILE] each: first and second coordinate."""
    x, y = _centres()
    first, second = (row[0] * x + row[1] * y + row[2] for row in matrix)
    return first, second


def _between(places: Array, length: int) -> tuple[Array, Array, Array]:
    """The cells on both sides of every place, and how far it is from the first to the second."""
    places = places.clip(0, length - 1)
    low = places.astype(jnp.int32)
    return low, jnp.minimum(low + 1, length - 1), (places - low)[..., None]


def _mix(first: Array, second: Array, share: Array) -> Array:
    return first + share * (second - first)


class Tile(NamedTuple):
    """What is seen of the faces so far."""

    classes: Array  # uint8 [TILE, TILE]
    values: Array  # [TILE, TILE]
    in_box: Array  # bool [TILE, TILE]: whether the pixel lies in the box of its face


@jax.jit
def _lay_over(
    below: Tile, classes: Array, values: Array, to_crop: Array, box: Array, background: Array
) -> Tile:
    """The tile with a face in front of those before.

    The background of a crop hides nothing. Crops are twice as wide as faces, and what the network
    sees of a neighbour at the border is not aligned: there the neighbour's own crop counts.
    """
    u, v = _places(to_crop)
    in_crop = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    (x, y), (left, top, right, bottom) = _centres(), box
    in_box = (x >= left) & (x < right) & (y >= top) & (y < bottom) & (classes != background)
    in_front = (classes != background) & (in_box | ~below.in_box)
    shown = in_crop & (in_front | (below.classes == background))
    face = Tile(classes, values, in_box)
    return Tile(*(jnp.where(shown, new, old) for new, old in zip(face, below, strict=True)))


def assemble_placed(
    faces: Sequence[Placed],
    size: tuple[int, int],
    outside: np.generic,
    background: int,
    classify: Callable[[Sequence[PlacedPart]], Array],
    compute: Callable[[Sequence[PlacedPart]], Array] | None = None,
) -> np.ndarray:
    """The photograph [*size], tile by tile, from `compute`: that of tiles.tile_confidence, …

    `classify` is that of tiles.tile_classes, `background` a class of its table, or 255 if it has
    none; without `compute` the result are the classes. Each face is in front of those before it in
    the list; where there is none, every pixel is `outside`.
    """

    def draw(tile: tuple[int, int]) -> Array | np.ndarray:
        square = TILE, TILE
        nothing = np.full(square, background, np.uint8)
        seen = Tile(nothing, np.full(square, outside), np.zeros(square, bool))
        for face in faces:
            if face.touches(tile):
                parts = [face.part(level, tile) for level in face.levels]
                classes = classify(parts)
                values = compute(parts) if compute else classes
                to_crop = face.to_crop(tile).astype(np.float32)
                box = np.subtract(face.box, tile[::-1] * 2).astype(np.float32)
                seen = _lay_over(seen, classes, values, to_crop, box, np.uint8(background))
        return seen.values

    down, across = (range(0, length, TILE) for length in size)
    tiles = [[draw((top, left)) for left in across] for top in down]
    return np.block(jax.device_get(tiles))[: size[0], : size[1]]
