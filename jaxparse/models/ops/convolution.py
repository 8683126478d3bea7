"""Convolutions and max pooling on [B, H, W, C], zero padding that keeps the grid as in PyTorch.

Depthwise convolution and pooling have a formulation that is fast on CPUs, forward and backward;
other devices run the plain one, which cuDNN makes as fast. Tests hold each to the plain one, values
and gradients.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.models.ops.products import split, widen


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


def plain_kernel_grad(x: Array, grad: Array, dilation: int, groups: int = 1) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1] // groups, grad.shape[-1]), x.dtype)
    conv = partial(plain_conv, x, dilation=dilation, groups=groups)
    return jax.linear_transpose(conv, kernel)(grad)[0]


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
    plain = partial(plain_kernel_grad, dilation=dilation, groups=x.shape[-1])
    return x_grad, jax.lax.platform_dependent(x, grad, cpu=shifted, default=plain)


depthwise_conv3x3.defvjp(_depthwise_forward, _depthwise_backward)


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
