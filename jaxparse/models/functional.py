"""Functions under the layers: resizing, average pooling and GELU, on maps [B, H, W, C].

What must equal PyTorch does so here; sums are taken as few and well shaped products.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def widen(x: Array) -> Array:
    """16-bit floats as float32, others as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def resize_matrix(
    in_size: int, out_size: int | Array, rows: int | None = None, *, align_corners: bool = False
) -> np.ndarray | Array:
    """Bilinear resizing of one axis as a matrix [out_size, in_size].

    Equals torch's `interpolate(mode="bilinear")`, half-pixel centres or `align_corners`: no
    antialiasing when shrinking, which `jax.image.resize` does unless told otherwise. With `rows`,
    `out_size` may be traced: the matrix is [rows, in_size] and its rows from out_size on mean
    nothing.
    """
    pixels = np.arange(rows or out_size)
    if align_corners:
        centres = pixels * ((in_size - 1) / max(out_size - 1, 1))
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


def resize_logits(logits: Array, size: tuple[int, int]) -> Array:
    """[B, h, w, C] -> [B, C, *size], bilinear.

    Classes move to the front: 19 is a poor innermost dimension for any vector unit.
    """
    return apply_class_first(logits, *resize_matrices(logits, size))


def apply_class_first(logits: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """[B, h, w, C] -> [B, C, H, W] with matrices [H, h] and [W, w]."""
    rows, columns = jnp.asarray(rows, logits.dtype), jnp.asarray(columns, logits.dtype)
    logits = jnp.einsum("byxc,Xx->bcyX", logits, columns, precision="highest")
    return jnp.einsum("Yy,bcyX->bcYX", rows, logits, precision="highest")


def adaptive_average_pool(x: Array, bins: int) -> Array:
    """[B, H, W, C] -> [B, bins, bins, C]; torch's AdaptiveAvgPool2d."""
    return apply_separable(x, *(pooling_matrix(size, bins) for size in x.shape[1:3]))


def within_branch(function: Callable[[Array, Array], Array], x: Array, grad: Array) -> Array:
    """`function(x, grad)` in a branch that is taken unless `grad` is no longer a number: then NaN.

    For gradients on a CPU. XLA fuses nothing across a branch and does not begin it before `grad` is
    there. Without it, it would hoist what depends on `x` alone into the forward pass and keep it.
    """
    result = jax.eval_shape(function, x, grad)
    diverged = jnp.full(result.shape, jnp.nan, result.dtype)
    return jax.lax.cond(jnp.isfinite(grad.ravel()[0]), function, lambda *_: diverged, x, grad)


def contract_rows(x: Array, grad: Array) -> Array:
    """[..., N, I], [..., N, O] -> [..., I, O]: the gradient of the kernel of a product.

    In a branch on a CPU: XLA would fuse the transposition of an operand with what computes it, and
    so write it element by element.
    """
    batch = tuple(range(x.ndim - 2))
    rows = (x.ndim - 2,)
    product = partial(jax.lax.dot_general, dimension_numbers=((rows, rows), (batch, batch)))
    return jax.lax.platform_dependent(x, grad, cpu=partial(within_branch, product), default=product)


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
    """[..., I] by [I, O] -> [..., O]."""
    return x @ kernel


def _matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _matmul_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    rows = (a.reshape(-1, a.shape[-1]) for a in (x, grad))
    return grad @ kernel.T, contract_rows(*rows)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def relu(x: Array) -> Array:
    """Rectifier. Its gradient needs the output only, which the next layer keeps anyway."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    out = relu(x)
    return out, out


def _relu_backward(out: Array, grad: Array) -> tuple[Array]:
    return (jnp.where(out > 0, grad, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def gelu(x: Array) -> Array:
    """Exact GELU. By erf, not by jax.nn.gelu's erfc, which takes three times as long on a CPU."""
    wide = widen(x)
    return (0.5 * wide * (1 + jax.lax.erf(wide * np.sqrt(0.5).astype(wide.dtype)))).astype(x.dtype)
