"""Convolutions and max pooling on [B, H, W, C], zero padding that keeps the grid as in PyTorch.

Each has a formulation that is fast on a CPU, forward and backward; elsewhere the plain one, for
which cuDNN has as much. Each is tested against the plain one, values and gradients.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse.models.functional import (
    contract_rows,
    left_multiply,
    resize_matrices,
    widen,
    within_branch,
)

# Winograd's F(2×2, 3×3) (Lavin & Gray 2016, arXiv:1509.09308). Transforms go axis by axis; each
# round stacks its points in front, so a result starts with the columns' points, then the rows'.
# With dilation d an axis is d interleaved ones: it is cut into [tiles, 2, d] instead of [tiles, 2].

# Below, the transforms cost more than the products they save.
WINOGRAD_MIN_CHANNELS = 64


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


def _winograd_input(x: Array, dilation: int) -> Array:
    """[B, H, W, C], padded to whole tiles -> [4, 4, B, H/2, W/2, C]: overlapping 4×4 tiles."""
    x = _to_tiles(x, dilation)
    for axis in (1, 3):
        pads = [(0, 0)] * x.ndim
        pads[axis] = (dilation, dilation)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        padded = jnp.pad(x, pads).reshape(*before, -1, dilation, *after)
        last = x.shape[axis] // dilation - 1
        points = (jax.lax.slice_in_dim(padded, i, i + last, 2, axis) for i in range(4))
        d0, d1, d2, d3 = (point.reshape(*before, -1, *after) for point in points)
        x = jnp.stack([d0 - d2, d1 + d2, d2 - d1, d1 - d3])
    return x


def _winograd_output(m: Array, dilation: int) -> Array:
    """[4, 4, B, h, w, C] products -> [B, 2h, 2w, C]."""
    for axis in (0, 1):
        m0, m1, m2, m3 = _split(m, axis)
        m = jnp.stack([m0 + m1 + m2, m1 - m2 - m3])
    _, _, batch, height, width, channels = m.shape  # first axis: row in the tile, second: column
    m = m.reshape(2, 2, batch, height // dilation, dilation, width // dilation, dilation, channels)
    return m.transpose(2, 3, 0, 4, 5, 1, 6, 7).reshape(batch, 2 * height, 2 * width, channels)


def _winograd_output_transposed(grad: Array, dilation: int) -> Array:
    """[B, H, W, C], padded to whole tiles -> [4, 4, B, H/2, W/2, C]."""
    grad = _to_tiles(grad, dilation)
    batch, height, width, channels = grad.shape
    grad = grad.reshape(batch, -1, 2, dilation, width // (2 * dilation), 2, dilation, channels)
    for axis in (2, 5):
        y0, y1 = _split(grad, axis)
        grad = jnp.stack([y0, y0 + y1, y0 - y1, -y1])
    return grad.reshape(4, 4, batch, height // 2, width // 2, channels)


def _to_tiles(x: Array, dilation: int) -> Array:
    bottom, right = (-size % (2 * dilation) for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))


def _winograd_conv(x: Array, kernel: Array, dilation: int) -> Array:
    tiles = _winograd_input(x, dilation)
    products = jnp.einsum("qpbhwi,qpio->qpbhwo", tiles, _winograd_kernel(kernel))
    return _winograd_output(products, dilation)[:, : x.shape[1], : x.shape[2]]


def _winograd_kernel_grad(x: Array, grad: Array, dilation: int) -> Array:
    tiles, grads = _winograd_input(x, dilation), _winograd_output_transposed(grad, dilation)
    rows = (a.reshape(4, 4, -1, a.shape[-1]) for a in (tiles, grads))
    return _winograd_kernel_transposed(contract_rows(*rows))


def plain_conv(
    x: Array, kernel: Array, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Array:
    """[B, H, W, I], [k, k, I/groups, O], k odd -> [B, ⌈H/stride⌉, ⌈W/stride⌉, O].

    Zero padding of (k - 1)/2 · dilation on every side; XLA's SAME pads an even map with stride 2
    by (k - 3)/2 at the start, which shifts the grid by a pixel.
    """
    pad = kernel.shape[0] // 2 * dilation
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _plain_kernel_grad(x: Array, grad: Array, dilation: int, groups: int = 1) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1] // groups, grad.shape[-1]), x.dtype)
    conv = partial(plain_conv, x, dilation=dilation, groups=groups)
    return jax.linear_transpose(conv, kernel)(grad)[0]


def conv3x3(x: Array, kernel: Array, dilation: int = 1) -> Array:
    """[B, H, W, I], [3, 3, I, O] -> [B, H, W, O]: stride 1, zero padding of `dilation`.

    On a CPU by Winograd's minimal filtering, forward and backward: 4/9 of the products, float32
    errors of 1e-6, and twice the speed (XLA's own gradient of the kernel alone takes 5 times as
    long). Not in 16 bits, whose errors the transforms would multiply.
    """
    if min(kernel.shape[2:]) < WINOGRAD_MIN_CHANNELS or x.dtype.itemsize == 2:
        return plain_conv(x, kernel, dilation=dilation)
    return _conv3x3(x, kernel, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3x3(x: Array, kernel: Array, dilation: int) -> Array:
    winograd = partial(_winograd_conv, dilation=dilation)
    plain = partial(plain_conv, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=winograd, default=plain)


def _conv3x3_forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv3x3(x, kernel, dilation), (x, kernel)


def _conv3x3_backward(
    dilation: int, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    x_grad = _conv3x3(grad, kernel[::-1, ::-1].swapaxes(2, 3), dilation)
    winograd = partial(within_branch, partial(_winograd_kernel_grad, dilation=dilation))
    plain = partial(_plain_kernel_grad, dilation=dilation)
    return x_grad, jax.lax.platform_dependent(x, grad, cpu=winograd, default=plain)


_conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def _pad_rows(x: Array, pad: int) -> Array:
    return jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0)))


def _shift_columns(x: Array, shift: int) -> Array:
    """Column w of the result is column w + shift of x, zero outside of it."""
    kept = x[:, :, max(shift, 0) : max(x.shape[2] + min(shift, 0), 0)]
    left = min(max(-shift, 0), x.shape[2])
    return jnp.pad(kept, ((0, 0), (0, 0), (left, x.shape[2] - left - kept.shape[2]), (0, 0)))


def _shifted_sum(x: Array, kernel: Array, dilation: int) -> Array:
    height, padded = x.shape[1], _pad_rows(x, dilation)
    rows = [padded[:, i * dilation :][:, :height] for i in range(3)]
    return sum(
        _shift_columns(sum(row * tap for row, tap in zip(rows, taps, strict=True)), shift)
        for taps, shift in zip(
            kernel[:, :, 0].swapaxes(0, 1), (-dilation, 0, dilation), strict=True
        )
    )


def _shifted_kernel_grad(x: Array, grad: Array, dilation: int) -> Array:
    """A few rows at a time, so that the nine products stay in the cache."""
    _, height, width, channels = x.shape
    rows = math.gcd(height, 4)
    # Not x padded: the forward pass has that too, and XLA would keep it for here.
    parts, padded = x.reshape(-1, rows, width, channels), _pad_rows(grad, dilation)

    def add_taps(total: Array, index: Array) -> tuple[Array, None]:
        picture, row = index // (height // rows), index % (height // rows) * rows
        part, taps = parts[index], []
        for i in range(3):
            start = (picture, row + (2 - i) * dilation, 0, 0)
            g = jax.lax.dynamic_slice(padded, start, (1, *part.shape))[0]
            for shift in (-dilation, 0, dilation):
                overlap = max(width - abs(shift), 0)
                left, right = part[:, max(shift, 0) :], g[:, max(-shift, 0) :]
                taps.append(widen(left[:, :overlap] * right[:, :overlap]).sum((0, 1)))
        return total + jnp.stack(taps), None

    zeros = jnp.zeros((9, channels), widen(x).dtype)
    total, _ = jax.lax.scan(add_taps, zeros, jnp.arange(len(parts)))
    return total.reshape(3, 3, 1, channels).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv3x3(x: Array, kernel: Array, dilation: int = 1) -> Array:
    """[B, H, W, C], [3, 3, 1, C] -> [B, H, W, C]: each channel by its own kernel.

    On a CPU nine shifted products and their sum, a tenth of the time of XLA's grouped convolution.
    """
    shifted = partial(_shifted_sum, dilation=dilation)
    plain = partial(plain_conv, dilation=dilation, groups=x.shape[-1])
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=plain)


def _depthwise_forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_conv3x3(x, kernel, dilation), (x, kernel)


def _depthwise_backward(
    dilation: int, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    x_grad = depthwise_conv3x3(grad, kernel[::-1, ::-1], dilation)
    shifted = partial(_shifted_kernel_grad, dilation=dilation)
    plain = partial(_plain_kernel_grad, dilation=dilation, groups=x.shape[-1])
    return x_grad, jax.lax.platform_dependent(x, grad, cpu=shifted, default=plain)


depthwise_conv3x3.defvjp(_depthwise_forward, _depthwise_backward)


def _later(a: Array, b: Array) -> Array:
    """The larger one; among equals the first gets the gradient, as in torch."""
    return jnp.where(b > a, b, a)


def _halve_by_max(x: Array, axis: int) -> Array:
    """Maxima of 2i - 1, 2i and 2i + 1 along an axis of even size."""
    x = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = _split(x, axis + 1)
    pads = [(0, 0)] * odd.ndim
    pads[axis] = (1, 0)
    before = jnp.pad(odd, pads, constant_values=-jnp.inf)
    before = jax.lax.slice_in_dim(before, 0, odd.shape[axis], axis=axis)
    return _later(_later(before, even), odd)


def max_pool3x3(x: Array) -> Array:
    """[B, H, W, C] -> [B, ⌈H/2⌉, ⌈W/2⌉, C]: windows of 3×3 at stride 2, padding 1.

    By rows, then by columns: the gradient takes a quarter of the time of reduce_window's.
    """
    bottom, right = (size % 2 for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), constant_values=-jnp.inf)
    return _halve_by_max(_halve_by_max(x, 2), 1)


def shifted(matrix: np.ndarray) -> np.ndarray:
    """[out, in] -> [out, 3, in]: row i of tap d is row i + d - 1 of the zero padded matrix."""
    padded = np.pad(matrix, ((1, 1), (0, 0)))
    return np.stack([padded[tap : tap + len(matrix)] for tap in range(3)], axis=1)


def conv3x3_of_resized(
    x: Array, kernel: Array, size: tuple[int, int], align_corners: bool = False
) -> Array:
    """`conv3x3(resize_bilinear(x, size), kernel)` without ever making the resized map."""
    batch, height, width, in_channels = x.shape
    rows, columns = map(shifted, resize_matrices(x, size, align_corners))
    columns = columns.swapaxes(1, 2).reshape(size[1], 3 * width)
    by_row = []
    for taps in kernel:  # one row of the kernel: [3, I, O]
        products = x @ taps.swapaxes(0, 1).reshape(in_channels, -1)  # B h w 3·O
        by_row.append(left_multiply(columns, products.reshape(batch, height, 3 * width, -1)))
    stacked = jnp.concatenate(by_row, axis=1)  # B 3·h W O
    out = left_multiply(rows.reshape(size[0], -1), stacked.reshape(batch, 3 * height, -1))
    return out.reshape(batch, *size, -1)
