"""Bilinear resizing and average pooling of maps [B, H, W, C], equal to PyTorch's, as products."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def resize_matrix(
    in_size: int,
    out_size: int | Array,
    rows: int | None = None,
    first: int | Array = 0,
    *,
    align_corners: bool = False,
) -> np.ndarray | Array:
    """Bilinear resizing of one axis as a matrix [out_size, in_size].

    Equals torch's `interpolate(mode="bilinear")`, half-pixel centres or `align_corners`: no
    antialiasing when shrinking, which `jax.image.resize` does unless told otherwise. With `rows`,
    the matrix is [rows, in_size], for the pixels from `first` on, and `out_size` and `first` may be
    traced; rows beyond out_size mean nothing.
    """
    pixels = first + np.arange(rows or out_size)
    if align_corners:
        # Not max: a traced out_size is no Python number.
        centres = pixels * ((in_size - 1) / (out_size - 1 + (out_size == 1)))
    else:
        centres = (pixels + 0.5) * (in_size / out_size) - 0.5
    return linear_weights(centres, in_size)


def linear_weights(places: np.ndarray | Array, in_size: int) -> np.ndarray | Array:
    """Linear interpolation at places [N], in cells of 0..in_size - 1, as a matrix [N, in_size]."""
    distances = abs(places.clip(0, in_size - 1)[:, None] - np.arange(in_size))
    return (1 - distances).clip(0)


def pooling_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Adaptive average pooling of one axis as a matrix [out_size, in_size].

    torch's bin i covers floor(i * in / out) .. ceil((i + 1) * in / out), so bins overlap where the
    sizes do not divide.
    """
    bins = np.arange(out_size)[:, None]
    start = bins * in_size // out_size
    end = -((-(bins + 1) * in_size) // out_size)
    cells = np.arange(in_size)
    inside = (cells >= start) & (cells < end)
    return inside / (end - start)


def left_multiply(matrix: np.ndarray | Array, x: Array) -> Array:
    """[M, K] times each matrix of [..., K, N] -> [..., M, N].

    As a batched product: `einsum` would make it one product of transposed copies.
    """
    batch = tuple(range(x.ndim - 2))
    matrix = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (*x.shape[:-2], *matrix.shape))
    dimensions = (((x.ndim - 1,), (x.ndim - 2,)), (batch, batch))
    return jax.lax.dot_general(matrix, x, dimensions, precision="highest")


def apply_separable(x: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """[B, h, w, C] -> [B, H, W, C] with matrices [H, h] and [W, w]."""
    x = left_multiply(columns, x)  # B h W C
    batch, height, width, channels = x.shape
    return left_multiply(rows, x.reshape(batch, height, -1)).reshape(batch, -1, width, channels)


def resize_matrices(
    x: Array, size: tuple[int, int], align_corners: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The matrices [H, h] and [W, w] that resize [B, h, w, C] to [B, *size, C]."""
    rows, columns = (
        resize_matrix(i, o, align_corners=align_corners)
        for i, o in zip(x.shape[1:3], size, strict=True)
    )
    return rows, columns


def resize_bilinear(x: Array, size: tuple[int, int], align_corners: bool = False) -> Array:
    """[B, h, w, C] -> [B, *size, C], bilinear."""
    if x.shape[1:3] == size:
        return x
    return apply_separable(x, *resize_matrices(x, size, align_corners))


def sum_of_resized(maps: Sequence[Array]) -> Array:
    """Maps [B, h, w, C] resized bilinearly to the size of the first, and added to it.

    Rows last and all maps at once: the sum is written once.
    """
    first, *others = maps
    rows, columns = zip(*(resize_matrices(x, first.shape[1:3]) for x in others), strict=True)
    wide = [left_multiply(matrix, x) for matrix, x in zip(columns, others, strict=True)]
    stacked = jnp.concatenate(wide, axis=1)  # B Σh W C
    flat = stacked.reshape(*stacked.shape[:2], -1)
    return first + left_multiply(np.concatenate(rows, axis=1), flat).reshape(first.shape)


def nearest_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Nearest resizing of one axis as a matrix [out_size, in_size]: pixel i is ⌊i · in / out⌋.

    Equals torch's `interpolate(mode="nearest")`.
    """
    return np.eye(in_size)[np.arange(out_size) * in_size // out_size]


def resize_nearest(x: Array, size: tuple[int, int]) -> Array:
    """[B, h, w, C] -> [B, *size, C], nearest.

    By products: the gradient of indexing would add in any order, and slowly, where this one sums.
    """
    if x.shape[1:3] == size:
        return x
    return apply_separable(x, *(nearest_matrix(*s) for s in zip(x.shape[1:3], size, strict=True)))


def resize_logits(
    logits: Array, size: tuple[int, int], align_corners: bool = False, stride: int = 1
) -> Array:
    """[B, h, w, C] -> [B, C, *size], bilinear; of that every stride-th row and column.

    Classes move to the front: 19 is a poor innermost dimension for any vector unit.
    """
    rows, columns = resize_matrices(logits, size, align_corners)
    return apply_class_first(logits, rows[::stride], columns[::stride])


def apply_class_first(logits: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """[B, h, w, C] -> [B, C, H, W] with matrices [H, h] and [W, w]."""
    rows, columns = jnp.asarray(rows, logits.dtype), jnp.asarray(columns, logits.dtype)
    logits = jnp.einsum("byxc,Xx->bcyX", logits, columns, precision="highest")
    return jnp.einsum("Yy,bcyX->bcYX", rows, logits, precision="highest")


def adaptive_average_pool(x: Array, bins: int) -> Array:
    """[B, H, W, C] -> [B, bins, bins, C]; torch's AdaptiveAvgPool2d."""
    return apply_separable(x, *(pooling_matrix(size, bins) for size in x.shape[1:3]))


def shifted_taps(matrix: np.ndarray) -> np.ndarray:
    """[out, in] -> [out, 3, in]: row i of tap d is row i + d - 1 of the zero padded matrix."""
    padded = np.pad(matrix, ((1, 1), (0, 0)))
    return np.stack([padded[tap : tap + len(matrix)] for tap in range(3)], axis=1)


def conv3x3_of_resized(
    x: Array, kernel: Array, size: tuple[int, int], align_corners: bool = False
) -> Array:
    """`conv3x3(resize_bilinear(x, size), kernel)` without ever making the resized map."""
    batch, height, width, in_channels = x.shape
    rows, columns = map(shifted_taps, resize_matrices(x, size, align_corners))
    columns = columns.swapaxes(1, 2).reshape(size[1], 3 * width)
    by_row = []
    for taps in kernel:  # one row of the kernel: [3, I, O]
        products = x @ taps.swapaxes(0, 1).reshape(in_channels, -1)  # B h w 3·O
        by_row.append(left_multiply(columns, products.reshape(batch, height, 3 * width, -1)))
    stacked = jnp.concatenate(by_row, axis=1)  # B 3·h W O
    out = left_multiply(rows.reshape(size[0], -1), stacked.reshape(batch, 3 * height, -1))
    return out.reshape(batch, *size, -1)
