"""Pixel accuracy and the confusion matrix, on the device; `scoring` makes scores of it."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.classes import IGNORE_LABEL, NUM_CLASSES


def pixel_accuracy(prediction: Array, label: Array) -> Array:
    """Share of right pixels among those that are not ignored, 0..1."""
    counted = label != IGNORE_LABEL
    return (counted & (prediction == label)).sum() / jnp.maximum(counted.sum(), 1)


def confusion_matrix(label: Array, prediction: Array) -> Array:
    """int32 [19, 19] pixel counts, rows by label, columns by prediction; labels ≥ 19 are left out.

    A product of one-hot matrices: scattering into 361 cells would serialise. float32 counts
    exactly up to 2^24, so rows of the picture are summed as integers.
    """
    label, prediction = (
        jax.nn.one_hot(x.reshape(-1, x.shape[-1]), NUM_CLASSES, axis=-2, dtype=jnp.float32)
        for x in (label, prediction)
    )
    rows = jnp.einsum("rlw,rpw->rlp", label, prediction)
    return rows.astype(jnp.int32).sum(0)
