"""Losses on logits at the label's size, as mmsegmentation's heads compute them."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.classes import IGNORE_LABEL


def log_sum_exp(logits: Array) -> Array:
    """Over axis 1 of [B, C, H, W]: chains over the classes, which fuse into two plain loops."""
    parts = [logits[:, index] for index in range(logits.shape[1])]
    highest = functools.reduce(jnp.maximum, parts)
    return highest + jnp.log(sum(jnp.exp(part - highest) for part in parts))


@jax.custom_vjp
def pixel_losses(logits: Array, label: Array) -> Array:
    """Cross-entropy of each pixel: [B, C, H, W], [B, H, W] -> [B, H, W]; 0 where ignored.

    Its gradient is one pass over the logits, and keeps no copy of them but themselves.
    """
    return _pixel_losses_forward(logits, label)[0]


def _target(logits: Array, label: Array) -> Array:
    """[B, C, H, W] True at the label's class; False everywhere where ignored."""
    return jnp.arange(logits.shape[1], dtype=label.dtype)[:, None, None] == label[:, None]


def _pixel_losses_forward(logits: Array, label: Array) -> tuple[Array, tuple[Array, ...]]:
    normaliser = log_sum_exp(logits)
    chosen = jnp.where(_target(logits, label), logits, 0).sum(1)
    losses = jnp.where(label == IGNORE_LABEL, 0, normaliser - chosen)
    return losses, (logits, label, normaliser)


def _pixel_losses_backward(saved: tuple[Array, ...], grad: Array) -> tuple[Array, None]:
    logits, label, normaliser = saved
    grad = jnp.where(label == IGNORE_LABEL, 0, grad)
    probabilities = jnp.exp(logits - normaliser[:, None])
    return grad[:, None] * (probabilities - _target(logits, label)), None


pixel_losses.defvjp(_pixel_losses_forward, _pixel_losses_backward)


def cross_entropy(logits: Array, label: Array) -> Array:
    """Mean over all pixels of logits [B, C, H, W] against labels [B, H, W], 0..18 and 255.

    Ignored pixels (255) add nothing to the sum and still count, as in mmsegmentation's default
    (avg_non_ignore=False).
    """
    return pixel_losses(logits, label).mean()
