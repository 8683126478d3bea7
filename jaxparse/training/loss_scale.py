"""Dynamic loss scaling (Micikevicius et al. 2018, arXiv:1710.03740).

float16 has no gradients below 6e-8: the loss is scaled up before the gradient is taken and the
gradient down after. The scale doubles after 2000 good steps in a row. When a gradient overflows,
it halves and the step is skipped: weights, running statistics, the optimiser and its schedule, and
the average stay as they were; only the step counter advances, and with it data and dropout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.devices import PyTree

INITIAL_SCALE = 2.0**15
GROWTH_STEPS = 2000


class LossScale(NamedTuple):
    """The scale, float32, and the good steps since it last changed, int32."""

    scale: Array
    good_steps: Array


def initial_loss_scale() -> LossScale:
    return LossScale(jnp.asarray(INITIAL_SCALE, jnp.float32), jnp.zeros((), jnp.int32))


def all_finite(tree: PyTree) -> Array:
    """Whether no array of the tree holds an infinity or a NaN."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def adjust(loss_scale: LossScale, finite: Array) -> LossScale:
    """The loss scale after a step whose gradients were `finite`, or not."""
    scale, good_steps = loss_scale.scale, jnp.where(finite, loss_scale.good_steps + 1, 0)
    grows = good_steps == GROWTH_STEPS
    scale = jnp.where(finite, jnp.where(grows, 2 * scale, scale), scale / 2)
    return LossScale(scale, jnp.where(grows, 0, good_steps))
