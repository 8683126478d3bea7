"""Losses on logits that are resized to the label's size, as mmsegmentation's heads compute them.

`total_loss` is the sum of the terms to which a Config gives a weight. Of mmsegmentation: the
divisors of cross-entropy (0.x and 1.x differ), OHEM (OHEMPixelSampler) and the sigmoid focal loss
(Lin et al. 2017, Focal Loss for Dense Object Detection). Label smoothing is PyTorch's.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.classes import IGNORE_LABEL
from jaxparse.config import Config, loss_weights
from jaxparse.models.ops.resize import resize_logits
from jaxparse.training.region_losses import dice_per_class, dice_per_picture, lovasz_softmax

FOCAL_GAMMA, FOCAL_ALPHA = 2, 0.5  # mmsegmentation's: yes and no weigh the same


@jax.custom_vjp
def log_sum_exp(logits: Array) -> Array:
    """Over axis 1 of [B, C, H, W]: chains over the classes, which fuse into two plain loops."""
    parts = [logits[:, index] for index in range(logits.shape[1])]
    highest = functools.reduce(jnp.maximum, parts)
    return highest + jnp.log(sum(jnp.exp(part - highest) for part in parts))


def _log_sum_exp_forward(logits: Array) -> tuple[Array, tuple[Array, Array]]:
    normaliser = log_sum_exp(logits)
    return normaliser, (logits, normaliser)


def _log_sum_exp_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array]:
    logits, normaliser = saved
    return (grad[:, None] * jnp.exp(logits - normaliser[:, None]),)


log_sum_exp.defvjp(_log_sum_exp_forward, _log_sum_exp_backward)


def softmax(logits: Array) -> Array:
    """Probabilities 0..1 of the classes: [B, C, H, W]."""
    return jnp.exp(logits - log_sum_exp(logits)[:, None])


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


def weighted_losses(logits: Array, label: Array, config: Config) -> Array:
    """`pixel_losses` with class weights and label smoothing, as torch's cross_entropy has them.

    Smoothed, the target is 1 - s at the label's class and s / C more at every class; the term of
    each class has that class's weight.
    """
    losses, smoothing = pixel_losses(logits, label), config.label_smoothing
    if loss_weights(config):
        losses = losses * class_weights(label, config)
    if smoothing:
        weights = jnp.asarray(loss_weights(config) or (1,) * logits.shape[1], logits.dtype)
        even = weights[:, None, None] * (log_sum_exp(logits)[:, None] - logits)
        even = jnp.where(label == IGNORE_LABEL, 0, even.mean(1))
        losses = (1 - smoothing) * losses + smoothing * even
    return losses


def class_weights(label: Array, config: Config) -> Array:
    """The weight of each pixel's class, [B, H, W]; of ignored pixels any."""
    return jnp.array(loss_weights(config)).at[label].get(mode="clip")


def near_boundary(label: Array, width: int) -> Array:
    """Pixels of [B, H, W] with another class at most `width` rows and columns away.

    Ignored pixels are no class: they make no boundary.
    """
    ignored = label == IGNORE_LABEL

    def pool(filled: Array, start: int, choose: Callable[[Array, Array], Array]) -> Array:
        for window in ((1, 2 * width + 1, 1), (1, 1, 2 * width + 1)):
            first = jnp.asarray(start, filled.dtype)
            filled = jax.lax.reduce_window(filled, first, choose, window, (1, 1, 1), "SAME")
        return filled

    label = label.astype(jnp.int32)
    lowest = pool(jnp.where(ignored, IGNORE_LABEL, label), IGNORE_LABEL, jax.lax.min)
    highest = pool(jnp.where(ignored, -1, label), -1, jax.lax.max)
    return (lowest < highest) & ~ignored


def hardest(losses: Array, label: Array, config: Config) -> Array:
    """The pixels that OHEM keeps, True in [B, H, W], of `pixel_losses` and labels.

    Those whose probability of the true class is below the threshold, and at least
    `ohem_min_kept` times B of the batch's least probable ones (Shrivastava et al. 2016, Training
    Region-based Object Detectors with Online Hard Example Mining; mmsegmentation's rule).
    """
    valid = label != IGNORE_LABEL
    probability = jnp.exp(-jax.lax.stop_gradient(losses)).astype(jnp.float32)
    # The bits of positive floats ascend as they do, and a CPU sorts integers four times as fast.
    bits = jax.lax.bitcast_convert_type(jnp.where(valid, probability, jnp.inf), jnp.int32)
    index = jnp.minimum(config.ohem_min_kept * len(label), jnp.maximum(valid.sum() - 1, 0))
    limit = jax.lax.bitcast_convert_type(jnp.sort(bits.ravel())[index], jnp.float32)
    return valid & (probability < jnp.maximum(limit, config.ohem_threshold))


def boundary_factor(label: Array, config: Config) -> Array:
    """What each pixel of [B, H, W] counts for its nearness to another class: 1, or more."""
    near = near_boundary(label, config.boundary_width)
    return jnp.where(near, 1 + config.boundary_weight, 1)


def divisor(label: Array, kept: Array, config: Config) -> Array | int:
    """What the sum of the cross-entropy of the pixels `kept` is divided by, above 0."""
    if config.cross_entropy_divisor == "pixels":
        return label.size
    counted = kept if config.cross_entropy_divisor == "kept" else label != IGNORE_LABEL
    weights = counted.astype(float)
    if config.cross_entropy_divisor == "weights":
        if loss_weights(config):
            weights = weights * class_weights(label, config)
        if config.boundary_weight:
            weights = weights * boundary_factor(label, config)
    total = weights.sum()
    return jnp.where(total > 0, total, 1)


def cross_entropy(logits: Array, label: Array, config: Config) -> Array:
    """Mean over pixels of logits [B, C, H, W] against labels [B, H, W], 0..C-1 and 255.

    Ignored pixels (255) add nothing to the sum. By default they still count in the mean, as in
    mmsegmentation's default (avg_non_ignore=False); `cross_entropy_divisor` counts otherwise.
    OHEM changes the sum and, but for that of the pixels kept, not the divisor.
    """
    losses, kept = weighted_losses(logits, label, config), label != IGNORE_LABEL
    if config.ohem_min_kept:
        kept = hardest(pixel_losses(logits, label), label, config)
        losses = jnp.where(kept, losses, 0)
    if config.boundary_weight:
        losses = losses * boundary_factor(label, config)
    return losses.sum() / divisor(label, kept, config)


def focal(logits: Array, label: Array) -> Array:
    """Focal loss of C yes-or-no questions per pixel: logits [B, C, H, W], labels [B, H, W].

    The mean over all pixels and classes; ignored pixels add nothing and count.
    """
    right = jnp.where(_target(logits, label), logits, -logits)  # logit of the right answer
    losses = FOCAL_ALPHA * jax.nn.sigmoid(-right) ** FOCAL_GAMMA * jax.nn.softplus(-right)
    return jnp.where((label == IGNORE_LABEL)[:, None], 0, losses).mean()


def lovasz(logits: Array, label: Array, config: Config) -> Array:
    """Lovász-softmax of logits [B, h, w, C] on every `lovasz_stride`-th row and column of labels.

    They are resized to those alone: adding its gradient to that of cross-entropy at the label's
    size takes a CPU longer than both.
    """
    stride, align_corners = config.lovasz_stride, config.align_corners
    logits = resize_logits(logits, label.shape[1:], align_corners, stride)
    return lovasz_softmax(softmax(logits), label[:, ::stride, ::stride], config.lovasz_per_picture)


def dice(logits: Array, label: Array, config: Config) -> Array:
    """Dice loss: one per picture, or one per class."""
    kind = dice_per_class if config.dice_per_class else dice_per_picture
    return kind(softmax(logits), _target(logits, label))


def total_loss(logits: Array, label: Array, config: Config) -> Array:
    """The loss of one head: the sum of the terms that have a weight.

    logits [B, h, w, C] are resized to labels [B, H, W] with 0..C-1 and 255 (ignored). Without a
    pixel that is not ignored the loss and its gradient are 0.
    """
    resized = resize_logits(logits, label.shape[1:], config.align_corners)
    terms = (
        (config.cross_entropy_weight, lambda: cross_entropy(resized, label, config)),
        (config.lovasz_weight, lambda: lovasz(logits, label, config)),
        (config.dice_weight, lambda: dice(resized, label, config)),
        (config.focal_weight, lambda: focal(resized, label)),
    )
    return sum(weight * term() for weight, term in terms if weight)
