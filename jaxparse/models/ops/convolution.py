"""Convolutions and max pooling on [B, H, W, C], zero padding that keeps the grid as in PyTorch.

Depthwise convolution and pooling have a formulation that is fast on CPUs, forward and backward;
other devices run the plain one, which cuDNN makes as fast. Tests hold each to the plain one, values
and gradients.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.models.ops.products import split, widen


def plain_conv(
    x: Array,
    kernel: Array,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    same: bool = False,
) -> Array:
    """[B, H, W, I], [k, k, I/groups, O], k odd -> [B, ⌈H/stride⌉, ⌈W/stride⌉, O].

    Zero padding of (k - 1)/2 · dilation on every side; with `same` TensorFlow's, which pads an even
    map with stride 2 by (k - 3)/2 at the start and so shifts the grid by a pixel.
    """
    pad = kernel.shape[0] // 2 * dilation
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME" if same else ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def plain_kernel_grad(x: Array, grad: Array, dilation: int) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], grad.shape[-1]), x.dtype)
    conv = partial(plain_conv, x, dilation=dilation)
    return jax.linear_transpose(conv, kernel)(grad)[0]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: zeros before and after an axis, the odd one after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Tap(NamedTuple):
    """A row and column of a depthwise kernel, and which pixels of a phase they meet."""

    row: int
    column: int
    down: int  # rows from a pixel of the result to the one it meets
    right: int


def _taps(
    size: tuple[int, int], kernel: int, stride: int, dilation: int, same: bool
) -> dict[tuple[int, int], list[Tap]]:
    """Phase -> its taps. Phase (a, b) of a map: its rows a, a + stride, ... and columns b, ..."""
    offsets = []
    for length in size:
        before = same_padding(length, kernel, stride)[0] if same else kernel // 2 * dilation
        offsets.append([divmod(i * dilation - before, stride) for i in range(kernel)])
    taps: dict[tuple[int, int], list[Tap]] = {}
    for row, (down, a) in enumerate(offsets[0]):
        for column, (right, b) in enumerate(offsets[1]):
            taps.setdefault((a, b), []).append(Tap(row, column, down, right))
    return taps


def _whole(x: Array, stride: int) -> Array:
    """The map with zeros below and at the right, so that its sides are multiples of `stride`."""
    below, right = (-size % stride for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0))) if below or right else x


def _shift_rows(x: Array, shifts: Sequence[int]) -> list[Array]:
    """For each shift the map whose row h is row h + shift of x, zero outside of it."""
    height, above, below = x.shape[1], max(0, -min(shifts)), max(0, *shifts)
    padded = jnp.pad(x, ((0, 0), (above, below), (0, 0), (0, 0)))
    return [padded[:, above + shift :][:, :height] for shift in shifts]


def _shift_columns(x: Array, shift: int) -> Array:
    """Column w of the result is column w + shift of x, zero outside of it."""
    kept = x[:, :, max(shift, 0) : max(x.shape[2] + min(shift, 0), 0)]
    left = min(max(-shift, 0), x.shape[2])
    return jnp.pad(kept, ((0, 0), (0, 0), (left, x.shape[2] - left - kept.shape[2]), (0, 0)))


def _correlate(x: Array, kernel: Array, taps: Sequence[Tap]) -> Array:
    """The sum over the taps of the shifted map times the kernel there, at the size of x."""
    downs = sorted({tap.down for tap in taps})
    rows = dict(zip(downs, _shift_rows(x, downs), strict=True))
    columns: dict[int, list[Array]] = {}
    for tap in taps:
        product = rows[tap.down] * kernel[tap.row, tap.column, 0]
        columns.setdefault(tap.right, []).append(product)
    return sum(_shift_columns(sum(parts), right) for right, parts in columns.items())


def _shifted_conv(x: Array, kernel: Array, stride: int, dilation: int, same: bool) -> Array:
    taps = _taps(x.shape[1:3], len(kernel), stride, dilation, same)
    x = _whole(x, stride)
    return sum(_correlate(x[:, a::stride, b::stride], kernel, taps[a, b]) for a, b in taps)


def _shifted_grad(
    size: tuple[int, int], grad: Array, kernel: Array, stride: int, dilation: int, same: bool
) -> Array:
    """The gradient of a map of that size."""
    taps = _taps(size, len(kernel), stride, dilation, same)

    def of_phase(a: int, b: int) -> Array:
        back = [tap._replace(down=-tap.down, right=-tap.right) for tap in taps.get((a, b), ())]
        return _correlate(grad, kernel, back) if back else jnp.zeros_like(grad)

    if stride == 1:
        return of_phase(0, 0)
    phases = [[of_phase(a, b) for b in range(stride)] for a in range(stride)]
    rows = [jnp.stack(row, 3) for row in phases]  # B H W stride C
    batch, height, width, _, channels = rows[0].shape
    x_grad = jnp.stack(rows, 2).reshape(batch, height * stride, width * stride, channels)
    return x_grad[:, : size[0], : size[1]]


def _shifted_kernel_grad(
    x: Array, grad: Array, size: int, stride: int, dilation: int, same: bool
) -> Array:
    """A few rows at a time, so that the products stay in the cache.

    Products of rows are added as whole rows, the columns at the end: vectors are then long.
    """
    taps = _taps(x.shape[1:3], size, stride, dilation, same)
    batch, height, width, channels = grad.shape
    rows = math.gcd(height, 16)
    # Not x padded: the forward pass has that too, and XLA would keep it for here.
    parts = _whole(x, stride).reshape(-1, rows, stride, width, stride, channels)
    every = [(*phase, *tap) for phase in taps for tap in taps[phase]]
    reach = max(max(abs(down), abs(right)) for *_, down, right in every)
    padded = jnp.pad(grad, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

    def add_taps(total: Array, index: Array) -> tuple[Array, None]:
        start = index // (height // rows), index % (height // rows) * rows, 0, 0
        window = (1, rows + 2 * reach, width + 2 * reach, channels)
        part, near = parts[index], jax.lax.dynamic_slice(padded, start, window)[0]
        products = {}
        for a, b, row, column, down, right in every:
            g = near[reach - down :, reach - right :][:rows, :width]
            products[row, column] = sum(widen(part[i, a, :, b] * g[i]) for i in range(rows))
        return total + jnp.stack([products[key] for key in sorted(products)]), None

    zeros = jnp.zeros((size * size, width, channels), widen(x).dtype)
    total, _ = jax.lax.scan(add_taps, zeros, jnp.arange(len(parts)))
    return total.sum(1).reshape(size, size, 1, channels).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise_conv(
    x: Array, kernel: Array, stride: int = 1, dilation: int = 1, same: bool = False
) -> Array:
    """[B, H, W, C], [k, k, 1, C] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, C]: each channel by its own kernel.

    Padding as in `plain_conv`. On a CPU shifted products and their sum, a tenth of the time of
    XLA's grouped convolution or less; a strided one as the sum of those of the map's phases.
    """
    settings = {"stride": stride, "dilation": dilation, "same": same}
    plain = partial(plain_conv, groups=x.shape[-1], **settings)
    shifted = partial(_shifted_conv, **settings)
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=plain)


def _depthwise_forward(
    x: Array, kernel: Array, *settings: int
) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_conv(x, kernel, *settings), (x, kernel)


def _depthwise_backward(
    stride: int, dilation: int, same: bool, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    settings = {"stride": stride, "dilation": dilation, "same": same}
    conv = partial(plain_conv, groups=x.shape[-1], **settings)

    def plain_grads(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
        return jax.vjp(conv, x, kernel)[1](grad)

    def shifted_grads(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
        x_grad = _shifted_grad(x.shape[1:3], grad, kernel, **settings)
        return x_grad, _shifted_kernel_grad(x, grad, len(kernel), **settings)

    return jax.lax.platform_dependent(x, kernel, grad, cpu=shifted_grads, default=plain_grads)


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


def _later(a: Array, b: Array) -> Array:
    """The larger one; among equals the first gets the gradient, as in torch."""
    return jnp.where(b > a, b, a)


def _halve_by_max(x: Array, axis: int) -> Array:
    """Maxima of 2i - 1, 2i and 2i + 1 along an axis of even size."""
    x = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = split(x, axis + 1)
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
