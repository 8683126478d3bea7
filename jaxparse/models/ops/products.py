"""Matrix products and activations whose gradients are written for XLA's CPU compiler."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def widen(x: Array) -> Array:
    """16-bit floats as float32, others as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def within_branch(function: Callable[[Array, Array], Array], x: Array, grad: Array) -> Array:
    """`function(x, grad)` inside lax.cond; NaN if the first number of `grad` is not finite.

    For gradients on CPUs: XLA fuses nothing across a branch and cannot hoist it into the forward
    pass, where it would compute what depends only on `x` and keep it in memory.
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


@jax.custom_vjp
def relu6(x: Array) -> Array:
    """Rectifier up to 6, with a gradient like that of `relu`."""
    return jnp.clip(x, 0, 6)


relu.defvjp(lambda x: (relu(x),) * 2, lambda out, grad: (jnp.where(out > 0, grad, 0),))
relu6.defvjp(
    lambda x: (relu6(x),) * 2,
    lambda out, grad: (jnp.where((out > 0) & (out < 6), grad, 0),),
)


def gelu(x: Array) -> Array:
    """Exact GELU. By erf, not by jax.nn.gelu's erfc, which takes three times as long on a CPU."""
    wide = widen(x)
    return (0.5 * wide * (1 + jax.lax.erf(wide * np.sqrt(0.5).astype(wide.dtype)))).astype(x.dtype)


def attend(logits: Array, v: Array) -> Array:
    """softmax(logits) times v: float32 [B, heads, N, M], [B, M, heads, C] -> [B, N, heads, C].

    The division comes last: C instead of M quotients per token. On a CPU that takes half of the
    time, forward and backward.
    """
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    x = jnp.einsum("bhnm,bmhc->bhnc", weights.astype(v.dtype), v)
    return (widen(x) / weights.sum(-1, keepdims=True)).astype(v.dtype).swapaxes(1, 2)


def attention(q: Array, k: Array, v: Array) -> Array:
    """Attention of [B, N, heads, C] to [B, M, heads, C], twice -> [B, N, heads, C].

    Logits and softmax are float32, whatever the type of the others.
    """
    return attend(widen(jnp.einsum("bnhc,bmhc->bhnm", q * q.shape[-1] ** -0.5, k)), v)


def split(x: Array, axis: int) -> list[Array]:
    return [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]
