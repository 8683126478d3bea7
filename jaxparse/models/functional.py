"""Functions under the layers: resizing, pooling, products and convolutions, and their gradients.

All maps are [B, H, W, C]; what must equal PyTorch does so here. Formulations were chosen that do
the same sum with fewer or better shaped products; each is tested against the plain one, values
and gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def resize_matrix(
    in_size: int, out_size: int | Array, rows: int | None = None
) -> np.ndarray | Array:
    """Bilinear resizing of one axis as a matrix [out_size, in_size], half-pixel centres.

    Equals torch's `interpolate(mode="bilinear", align_corners=False)`: no antialiasing when
    shrinking, which `jax.image.resize` does unless told otherwise. With `rows`, `out_size` may be
    traced: the matrix is [rows, in_size] and its rows from out_size on mean nothing.
    """
    centres = (np.arange(rows or out_size) + 0.5) * (in_size / out_size) - 0.5
    distances = abs(centres.clip(0, in_size - 1)[:, None] - np.arange(in_size))
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


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    """[B, h, w, C] -> [B, *size, C], bilinear, align_corners=False."""
    if x.shape[1:3] == size:
        return x
    matrices = (resize_matrix(i, o) for i, o in zip(x.shape[1:3], size, strict=True))
    return apply_separable(x, *matrices)


def resize_logits(logits: Array, size: tuple[int, int]) -> Array:
    """[B, h, w, C] -> [B, C, *size], bilinear.

    Classes move to the front: 19 is a poor innermost dimension for any vector unit.
    """
    matrices = (resize_matrix(i, o) for i, o in zip(logits.shape[1:3], size, strict=True))
    return apply_class_first(logits, *matrices)


def apply_class_first(logits: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """[B, h, w, C] -> [B, C, H, W] with matrices [H, h] and [W, w]."""
    rows, columns = jnp.asarray(rows, logits.dtype), jnp.asarray(columns, logits.dtype)
    logits = jnp.einsum("byxc,Xx->bcyX", logits, columns, precision="highest")
    return jnp.einsum("Yy,bcyX->bcYX", rows, logits, precision="highest")


def adaptive_average_pool(x: Array, bins: int) -> Array:
    """[B, H, W, C] -> [B, bins, bins, C]; torch's AdaptiveAvgPool2d."""
    return apply_separable(x, *(pooling_matrix(size, bins) for size in x.shape[1:3]))


def gelu(x: Array) -> Array:
    """Exact GELU. By erf, not by jax.nn.gelu's erfc, which takes three times as long on a CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


# Winograd's F(2×2, 3×3) (Lavin & Gray 2016, arXiv:1509.09308). Transforms go axis by axis; each
# round stacks its points in front, so a result starts with the columns' points, then the rows'.


def _split(x: Array, axis: int) -> list[Array]:
    return [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]


def _winograd_kernel(kernel: Array) -> Array:
    """[3, 3, I, O] -> [4, 4, I, O]."""
    for axis in (0, 1):
        k0, k1, k2 = _split(kernel, axis)
        kernel = jnp.stack([k0, (k0 + k1 + k2) / 2, (k0 - k1 + k2) / 2, k2])
    return kernel


def _winograd_kernel_transposed(grad: Array) -> Array:
    """[4, 4, I, O] -> [3, 3, I, O]."""
    for axis in (0, 1):
        g0, g1, g2, g3 = _split(grad, axis)
        grad = jnp.stack([g0 + (g1 + g2) / 2, (g1 - g2) / 2, (g1 + g2) / 2 + g3])
    return grad


def _winograd_input(x: Array) -> Array:
    """[B, H, W, C], padded to even H and W -> [4, 4, B, H/2, W/2, C]: overlapping 4×4 tiles."""
    x = _to_even(x)
    for axis in (1, 3):
        pads = [(0, 0)] * x.ndim
        pads[axis] = (1, 1)
        padded, last = jnp.pad(x, pads), x.shape[axis] - 1
        d0, d1, d2, d3 = (jax.lax.slice_in_dim(padded, i, i + last, 2, axis) for i in range(4))
        x = jnp.stack([d0 - d2, d1 + d2, d2 - d1, d1 - d3])
    return x


def _winograd_output(m: Array) -> Array:
    """[4, 4, B, h, w, C] products -> [B, 2h, 2w, C]."""
    for axis in (0, 1):
        m0, m1, m2, m3 = _split(m, axis)
        m = jnp.stack([m0 + m1 + m2, m1 - m2 - m3])
    _, _, batch, height, width, channels = m.shape  # first axis: row in the tile, second: column
    return m.transpose(2, 3, 0, 4, 1, 5).reshape(batch, 2 * height, 2 * width, channels)


def _winograd_output_transposed(grad: Array) -> Array:
    """[B, H, W, C], padded to even H and W -> [4, 4, B, H/2, W/2, C]."""
    grad = _to_even(grad)
    batch, height, width, channels = grad.shape
    grad = grad.reshape(batch, height // 2, 2, width // 2, 2, channels)
    for axis in (2, 4):
        y0, y1 = _split(grad, axis)
        grad = jnp.stack([y0, y0 + y1, y0 - y1, -y1])
    return grad


def _to_even(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))


def _winograd_conv(x: Array, kernel: Array) -> Array:
    products = jnp.einsum("qpbhwi,qpio->qpbhwo", _winograd_input(x), _winograd_kernel(kernel))
    return _winograd_output(products)[:, : x.shape[1], : x.shape[2]]


def _winograd_kernel_grad(x: Array, grad: Array) -> Array:
    tiles, grads = _winograd_input(x), _winograd_output_transposed(grad)
    return _winograd_kernel_transposed(jnp.einsum("qpbhwi,qpbhwo->qpio", tiles, grads))


def _plain_conv(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _plain_kernel_grad(x: Array, grad: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], grad.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _plain_conv(x, kernel), kernel)(grad)[0]


@jax.custom_vjp
def conv3x3(x: Array, kernel: Array) -> Array:
    """[B, H, W, I], [3, 3, I, O] -> [B, H, W, O]: stride 1, zero padding 1.

    On a CPU by Winograd's minimal filtering, forward and backward: 4/9 of the products, float32
    errors of 1e-6, and twice the speed (XLA's own gradient of the kernel alone takes 5 times as
    long). Elsewhere the plain convolution, for which cuDNN has as much.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_winograd_conv, default=_plain_conv)


def _conv3x3_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, kernel), (x, kernel)


def _conv3x3_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    x_grad = conv3x3(grad, kernel[::-1, ::-1].swapaxes(2, 3))
    kernel_grad = jax.lax.platform_dependent(
        x, grad, cpu=_winograd_kernel_grad, default=_plain_kernel_grad
    )
    return x_grad, kernel_grad


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def shifted_resize_matrices(in_size: int, out_size: int) -> np.ndarray:
    """[out_size, 3, in_size]: row i of tap d is row i + d - 1 of the resized, zero padded axis."""
    padded = np.pad(resize_matrix(in_size, out_size), ((1, 1), (0, 0)))
    return np.stack([padded[tap : tap + out_size] for tap in range(3)], axis=1)


def conv3x3_of_resized(x: Array, kernel: Array, size: tuple[int, int]) -> Array:
    """`conv3x3(resize_bilinear(x, size), kernel)` without ever making the resized map."""
    batch, height, width, in_channels = x.shape
    rows, columns = (
        shifted_resize_matrices(i, o) for i, o in zip((height, width), size, strict=True)
    )
    columns = columns.swapaxes(1, 2).reshape(size[1], 3 * width)
    by_row = []
    for taps in kernel:  # one row of the kernel: [3, I, O]
        products = x @ taps.swapaxes(0, 1).reshape(in_channels, -1)  # B h w 3·O
        by_row.append(left_multiply(columns, products.reshape(batch, height, 3 * width, -1)))
    stacked = jnp.concatenate(by_row, axis=1)  # B 3·h W O
    out = left_multiply(rows.reshape(size[0], -1), stacked.reshape(batch, 3 * height, -1))
    return out.reshape(batch, *size, -1)
