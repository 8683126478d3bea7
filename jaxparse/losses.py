"""Losses on logits at the label's size, as mmsegmentation's heads compute them."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.classes import IGNORE_LABEL


def cross_entropy(logits: Array, label: Array) -> tuple[Array, Array]:
    """Cross-entropy of logits [B, C, H, W] against labels [B, H, W], and pixel accuracy in 0..1.

    The loss is the mean over all pixels; ignored ones (255) add nothing to the sum and still
    count, as in mmsegmentation's default (avg_non_ignore=False). Accuracy leaves them out.
    """
    classes = jnp.arange(logits.shape[1])[:, None, None]
    counted = label != IGNORE_LABEL
    target = jnp.sum(jnp.where(classes == label[:, None], logits, 0), axis=1)
    losses = jnp.where(counted, jax.nn.logsumexp(logits, axis=1) - target, 0)
    correct = counted & (target >= logits.max(axis=1))
    accuracy = correct.sum() / jnp.maximum(counted.sum(), 1)
    return losses.mean(), accuracy
