"""Losses on regions rather than on single pixels: Lovász-softmax and Dice.

Both take the classes' probabilities. Lovász-softmax is Berman, Rannen Triki and Blaschko 2018
(The Lovász-Softmax loss, CVPR, section 3 and algorithm 1); Dice is mmsegmentation's, and SegFace's.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse.classes import IGNORE_LABEL

LAST = np.uint32(2**32 - 1)  # key of ignored pixels; the bits of a number in 0..1 are below 2^30


def _descending(errors: Array, valid: Array) -> Array:
    """Indices of [N] errors 0..1 from the largest to the smallest; those that are not valid last.

    Ordered as float32 numbers, whose bits ascend as they do. Error and index are one 64-bit key,
    which a CPU sorts in a quarter of the time of a pair of 32-bit operands.
    """
    bits = jax.lax.bitcast_convert_type(errors.astype(jnp.float32), jnp.uint32)
    keys = jnp.where(valid, LAST - 1 - bits, LAST)
    with jax.enable_x64(True):
        indices = jnp.arange(errors.size, dtype=jnp.uint64)
        keys = jax.lax.sort(keys.astype(jnp.uint64) << 32 | indices, is_stable=False)
        return (keys & 0xFFFFFFFF).astype(jnp.int32)


def _extension(probability: Array, target: Array, valid: Array) -> tuple[Array, Array]:
    """Lovász extension of the Jaccard loss of one class, and its slope in each probability.

    probability [N] 0..1; target [N] True at the class; valid [N] -> scalar, [N]. Both are 0 if
    the class has no pixels.
    """
    errors = jnp.abs(target - probability)
    order = _descending(errors, valid)
    found, total = target[order], target.sum()
    seen = jnp.cumsum(found)
    # With the first i pixels wrong: the class's pixels left, the union of label and prediction.
    left = (total - seen).astype(errors.dtype)
    union = (total + jnp.arange(1, errors.size + 1) - seen).astype(errors.dtype)
    # What pixel i adds to 1 - left / union; a difference of both would lose digits.
    steps = jnp.where(found, 1 / union, left / (union * jnp.maximum(union - 1, 1)))
    slopes = jnp.zeros_like(errors)
    slopes = slopes.at[order].set(steps, unique_indices=True, mode="promise_in_bounds")
    return (errors * slopes).sum(), jnp.where(target, -slopes, slopes)


@jax.custom_vjp
def jaccard_losses(probabilities: Array, label: Array) -> Array:
    """Lovász extension per class and set of pixels: [C, S, N], [S, N] -> [C, S].

    Ignored pixels are left out; a class without pixels is 0. One class after another, so that
    memory for sorting is that of one. The slopes are found with the values, not through the sort.
    """
    return _jaccard_losses_forward(probabilities, label)[0]


def _jaccard_losses_forward(probabilities: Array, label: Array) -> tuple[Array, tuple[Array]]:
    valid = label != IGNORE_LABEL

    def one_class(operands: tuple[Array, Array]) -> tuple[Array, Array]:
        probability, index = operands
        return jax.vmap(_extension)(probability, label == index, valid)

    indices = jnp.arange(len(probabilities), dtype=label.dtype)
    losses, slopes = jax.lax.map(one_class, (probabilities, indices))
    return losses, (slopes,)


def _jaccard_losses_backward(saved: tuple[Array], grad: Array) -> tuple[Array, None]:
    return grad[..., None] * saved[0], None


jaccard_losses.defvjp(_jaccard_losses_forward, _jaccard_losses_backward)


def lovasz_softmax(probabilities: Array, label: Array, per_picture: bool) -> Array:
    """Lovász-softmax of probabilities [B, C, H, W] and labels [B, H, W], 0..1.

    The mean over the classes present: in the whole batch, or in each picture and then the mean
    over pictures. Ignored pixels (255) are left out; without any other it is 0.
    """
    batch, classes = probabilities.shape[:2]
    label = label.reshape(batch if per_picture else 1, -1)
    probabilities = jnp.moveaxis(probabilities, 1, 0).reshape(classes, *label.shape)
    present = (label == jnp.arange(classes, dtype=label.dtype)[:, None, None]).any(-1)
    losses = jaccard_losses(probabilities, label)
    return (losses.sum(0) / jnp.maximum(present.sum(0), 1)).mean()


def dice_per_picture(probabilities: Array, target: Array) -> Array:
    """mmsegmentation's Dice loss, 0..1: probabilities and target [B, C, H, W].

    One Dice per picture over all classes and pixels together, then the mean over pictures. An
    ignored pixel has no target, and its probabilities still count in the divisor. A picture
    without any other pixel is 0.
    """
    axes, smooth = (1, 2, 3), 1e-3
    overlap = jnp.where(target, probabilities, 0).sum(axes)
    pixels = target.sum(axes)
    dice = 2 * overlap / ((probabilities**2).sum(axes) + pixels + 2 * smooth)
    return jnp.where(pixels > 0, 1 - dice, 0).mean()


def dice_per_class(probabilities: Array, target: Array) -> Array:
    """SegFace's Dice loss, 0..1: probabilities and target [B, C, H, W].

    One Dice per class over the whole batch without its ignored pixels, then the mean over all
    classes: a class of few pixels weighs as much as one of many.
    """
    axes, smooth = (0, 2, 3), 1e-5
    overlap = jnp.where(target, probabilities, 0).sum(axes)
    valid = target.any(1, keepdims=True)
    sizes = jnp.where(valid, probabilities**2, 0).sum(axes) + target.sum(axes)
    return (1 - (2 * overlap + smooth) / (sizes + smooth)).mean()
