"""3×3 convolutions by Winograd's F(2×2, 3×3) (Lavin & Gray 2016, arXiv:1509.09308), on CPUs.

Transforms go axis by axis; each round stacks its points in front, so a result starts with the
columns' points, then the rows'. With dilation d an axis is d interleaved ones: it is cut into
[tiles, 2, d] instead of [tiles, 2].
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.models.ops.convolution import plain_conv, plain_kernel_grad
from jaxparse.models.ops.products import contract_rows, split, within_branch

# Below, the transforms cost more than the products they save.
WINOGRAD_MIN_CHANNELS = 64


def _winograd_kernel(kernel: Array) -> Array:
    """[3, 3, I, O] -> [4, 4, I, O]."""
    for axis in (0, 1):
        k0, k1, k2 = split(kernel, axis)
        kernel = jnp.stack([k0, (k0 + k1 + k2) / 2, (k0 - k1 + k2) / 2, k2])
    return kernel


def _winograd_kernel_transposed(grad: Array) -> Array:
    """[4, 4, I, O] -> [3, 3, I, O]."""
    for axis in (0, 1):
        g0, g1, g2, g3 = split(grad, axis)
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
        m0, m1, m2, m3 = split(m, axis)
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
        y0, y1 = split(grad, axis)
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


def conv3x3(x: Array, kernel: Array, dilation: int = 1) -> Array:
    """[B, H, W, I], [3, 3, I, O] -> [B, H, W, O]: stride 1, zero padding of `dilation`.

    On a CPU by Winograd's minimal filtering, forward and backward: 4/9 of the products, float32
    errors of 1e-6, and twice the speed (XLA's own gradient of the kernel takes 5 times as long).
    Not in 16 bits, whose errors the transforms would multiply.
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
    plain = partial(plain_kernel_grad, dilation=dilation)
    return x_grad, jax.lax.platform_dependent(x, grad, cpu=winograd, default=plain)


_conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)
