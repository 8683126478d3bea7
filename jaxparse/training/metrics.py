"""Pixel accuracy and the confusion matrix, on the device; `scoring` makes scores of it."""

import jax.numpy as jnp
from jax import Array

from jaxparse.classes import IGNORE_LABEL


def pixel_accuracy(prediction: Array, label: Array) -> Array:
    """Share of right pixels among those that are not ignored, 0..1."""
    counted = label != IGNORE_LABEL
    return (counted & (prediction == label)).sum() / jnp.maximum(counted.sum(), 1)


def confusion_matrix(label: Array, prediction: Array, classes: int) -> Array:
    """int32 [C, C] pixel counts, rows by label, columns by prediction; labels ≥ C are left out.

    One addition per pixel: on a CPU 0.7 ms for 512×512 pixels, whatever the number of classes,
    where products of one-hot matrices take 0.1 s for 19 classes and 3 s for 150.
    """
    cells = label.astype(jnp.int32) * classes + prediction
    cells = jnp.where(label < classes, cells, classes**2)
    counts = jnp.zeros(classes**2 + 1, jnp.int32).at[cells.ravel()].add(1)
    return counts[:-1].reshape(classes, classes)
