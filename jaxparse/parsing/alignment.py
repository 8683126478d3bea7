"""Aligned crops of faces, as CelebA-HQ's: Karras et al. 2018 (arXiv:1710.10196), appendix C.

All public networks for face parsing were trained on CelebAMask-HQ, whose pictures are such crops.

An alignment is a matrix float64 [2, 3] that maps (u, v, 1) to the photograph, in pixels from its
top left corner: u and v are 0..1 across and down the crop.
"""

import numpy as np
from PIL import Image


def align(points: np.ndarray) -> np.ndarray:
    """The alignment of a face by its five points [5, 2], in the order of `Face`.

    The crop is upright by the eyes and the mouth, and four times as wide as the eyes are apart or
    3.6 times as high as the mouth is below them, whichever is more. Raises ValueError if the points
    coincide or are not finite.
    """
    points = np.asarray(points, float)
    first, second, _, *mouth = points
    middle = (first + second) / 2
    eyes, down = second - first, np.mean(mouth, axis=0) - middle
    across = eyes + (down[1], -down[0])  # the direction in which both agree
    length = np.hypot(*across)
    half = max(2 * np.hypot(*eyes), 1.8 * np.hypot(*down))
    if not (np.isfinite(half) and length > 0.01 * half):
        raise ValueError(
            f"the points {points.tolist()} are not those of a face; expected (x, y) of "
            "two eyes, the nose and two corners of the mouth, of each two first the left one"
        )
    across = half / length * across
    below = np.array((-across[1], across[0]))
    corner = middle + 0.1 * down - across - below
    return np.stack([2 * across, 2 * below, corner], axis=1)


def side(alignment: np.ndarray) -> float:
    """Length of the crop's side in pixels of the photograph."""
    return float(np.hypot(*alignment[:, 0]))


def corners(alignment: np.ndarray) -> np.ndarray:
    """float64 [4, 2]: the crop's corners in the photograph, clockwise from its top left."""
    return np.array([(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]) @ alignment.T


def invert(alignment: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: maps (x, y, 1) in pixels of the photograph to (u, v)."""
    return np.linalg.inv(np.vstack([alignment, (0, 0, 1)]))[:2]


def crop(image: np.ndarray, alignment: np.ndarray, size: int) -> np.ndarray:
    """The aligned face, uint8 [size, size, 3], from a photograph uint8 [H, W, 3].

    As CelebA-HQ was made: bilinear at a multiple of the size that skips no pixel, then averaged in
    blocks. Beyond its border the photograph is continued by its mirror image.
    """
    steps = max(1, int(np.ceil(side(alignment) / size)))
    fine = steps * size
    quad = corners(alignment)
    left, top = np.floor(quad.min(0)).astype(int) - 2
    right, bottom = np.ceil(quad.max(0)).astype(int) + 2
    part = image[_mirrored(top, bottom, len(image))]
    part = part[:, _mirrored(left, right, image.shape[1])]
    matrix = alignment / (fine, fine, 1)
    matrix[:, 2] -= left, top
    cut = Image.fromarray(part).transform(
        (fine, fine), Image.Transform.AFFINE, matrix.ravel(), Image.Resampling.BILINEAR
    )
    return np.asarray(cut.reduce(steps) if steps > 1 else cut)


def _mirrored(start: int, stop: int, length: int) -> np.ndarray:
    """The pixels start..stop - 1 of an axis, mirrored at both ends, as indices below `length`."""
    places = np.arange(start, stop) % (2 * length)
    return np.minimum(places, 2 * length - 1 - places)
