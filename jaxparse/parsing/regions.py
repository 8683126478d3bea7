"""Regions of a picture: masks of one or several classes in 8 bits, grown, feathered, cut out.

To grow is grey dilation by a disc (Serra 1982, "Image Analysis and Mathematical Morphology"): each
pixel gets the highest value within the radius, among the pixels that the picture has. To shrink is
the same with the lowest. To feather is to blur with a Gaussian that ends at the distance given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isqrt
from typing import NamedTuple

import numpy as np

from jaxparse.classes import Classes

BLOCK = 128  # rows that one product of `_blur_columns` makes


class Region(NamedTuple):
    """Classes that are one in a file, and its name there: STEM_NAME.png."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """What becomes of the edge of a region, in this order."""

    hard: bool = False
    """Regions are 0 or 255, from the mask, instead of the probability."""
    grow: int = 0
    """Pixels by which regions grow; negative: by which they shrink."""
    feather: int = 0
    """Pixels to each side of an edge over which regions fade."""

    def __post_init__(self) -> None:
        if self.feather < 0:
            raise ValueError(f"feather is {self.feather}; give pixels, at least 0")


PLAIN = Edge()


def parse_region(text: str) -> Region:
    """CLASS[,CLASS...][=NAME], by default named after its classes. Raises ValueError."""
    classes, _, name = text.partition("=")
    names = tuple(classes.split(","))
    name = name or "_".join(names)
    if "/" in name or name == "overlay" or not all(names):
        raise ValueError(
            f"--region is {text}; give CLASS, or CLASS,CLASS=NAME, a name without / and not overlay"
        )
    return Region(name, names)


def require_classes(regions: Sequence[Region], classes: Classes) -> None:
    """Raises ValueError, listing the classes, if a region names one that is not there."""
    for region in regions:
        for name in region.classes:
            classes.index(name)


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """uint8 [H, W], grown by a disc of that radius, or shrunk if `pixels` is negative."""
    return _dilate(mask, pixels) if pixels >= 0 else 255 - _dilate(255 - mask, -pixels)


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """The highest value of the disc around each pixel, as that of its rows, from top to middle.

    Each row of the disc is wider than the one above: some 4 `radius` comparisons of the picture.
    """
    radius = min(radius, int(hypot(*mask.shape)) + 1)
    rows, width, grown = mask, 0, mask
    for distance in range(radius, -1, -1):
        half = isqrt(radius**2 - distance**2)
        while width < half:
            step = min(half - width, width + 1)  # windows side by side, or overlapping
            rows = _highest(rows, rows, step, 1)
            width += step
        grown = _highest(grown, rows, distance, 0)
    return grown


def _highest(first: np.ndarray, second: np.ndarray, shift: int, axis: int) -> np.ndarray:
    """The higher of `first` and of `second` moved by `shift` pixels to both sides."""
    result = first.copy()
    out, moved = (result, second) if axis == 0 else (result.T, second.T)
    length = len(out)
    for to, source in (
        (slice(shift, None), slice(0, max(length - shift, 0))),
        (slice(0, max(length - shift, 0)), slice(shift, None)),
    ):
        np.maximum(out[to], moved[source], out=out[to])
    return result


def feather(mask: np.ndarray, pixels: int) -> np.ndarray:
    """uint8 [H, W], blurred by a Gaussian of standard deviation pixels / 2 that ends at `pixels`.

    Along both axes. The border is repeated beyond the picture, so that no region fades there.
    """
    if pixels == 0:
        return mask
    kernel = np.exp(-2 * (np.arange(-pixels, pixels + 1) / pixels) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    blurred = _blur_columns(_blur_columns(mask.astype(np.float32), kernel).T, kernel).T
    return np.rint(blurred).astype(np.uint8)


def _blur_columns(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """float32 [H, W]: blocks of rows, each the product of a matrix of shifted kernels."""
    height, radius = len(image), len(kernel) // 2
    padded = np.pad(image, ((radius, radius), (0, 0)), mode="edge")
    matrix = np.zeros((BLOCK, BLOCK + 2 * radius), np.float32)
    for row in range(BLOCK):
        matrix[row, row : row + len(kernel)] = kernel
    blurred = np.empty_like(image)
    for top in range(0, height, BLOCK):
        rows = min(BLOCK, height - top)
        needed = padded[top : top + rows + 2 * radius]
        np.matmul(matrix[:rows, : len(needed)], needed, out=blurred[top : top + rows])
    return blurred


def cut_out(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Picture uint8 [H, W, 3] and a region of it [H, W] -> uint8 [H, W, 4], straight alpha."""
    return np.dstack([picture, region])
