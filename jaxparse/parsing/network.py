"""Picture -> logits -> classes: the network in evaluation mode, compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.config import Config, Precision
from jaxparse.models.ops.resize import apply_class_first, resize_matrix

LONGEST_CHAIN = 128  # classes


def highest_class(logits: Array) -> Array:
    """uint8 [B, H, W] class of the highest logit of [B, C, H, W]; ties go to the lowest class.

    A chain of compares fuses into one vectorised loop; XLA's argmax does not on a CPU. The chain of
    many classes takes seconds to compile, and loses its lead.
    """
    if logits.shape[1] > LONGEST_CHAIN:
        return jnp.argmax(logits, axis=1).astype(jnp.uint8)
    best, label = logits[:, 0], jnp.zeros(logits[:, 0].shape, jnp.uint8)
    for index in range(1, logits.shape[1]):
        higher = logits[:, index] > best
        label = jnp.where(higher, jnp.uint8(index), label)
        best = jnp.maximum(best, logits[:, index])
    return label


def predict_label(
    logits: Array,
    size: Array,
    block: tuple[int, int],
    corner: Array | tuple[int, int] = (0, 0),
    align_corners: bool = False,
) -> Array:
    """Logits [h, w, C] of one picture -> classes of a block of it at its own size, uint8 [*block].

    `size` int32 [2] is the picture's height and width, `corner` int32 [2] the block's first row and
    column; pixels beyond the picture are undefined. Both are arguments, not shapes, so that
    pictures of all sizes share one compiled program.
    """
    sizes = zip(logits.shape[:2], size.astype(logits.dtype), block, corner, strict=True)
    matrices = (
        resize_matrix(i, o, rows, first, align_corners=align_corners) for i, o, rows, first in sizes
    )
    return highest_class(apply_class_first(logits[None], *matrices))[0]


def make_logits_step(config: Config, precision: Precision = "float32") -> Callable[..., Array]:
    """The compiled network in evaluation mode, its feature maps of the type `precision`.

    (params, batch_stats, image uint8 [B, H, W, 3]) -> decode logits float32 [B, h, w, C].
    """
    # Not at the top: a network that is compiled already needs none of them.
    from flax import nnx

    from jaxparse.models import split_model
    from jaxparse.models.segmentor import normalise

    graphdef, _, _ = split_model(config)

    def logits_step(params: dict[str, Any], batch_stats: dict[str, Any], image: Array) -> Array:
        model = nnx.merge(graphdef, params, batch_stats)
        return model(normalise(image, config).astype(precision)).decode

    return jax.jit(logits_step)
