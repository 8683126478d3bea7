"""The optimiser of recipes: AdamW under a poly schedule with linear warm-up."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxparse.config import Config

WARMUP_RATIO = 1e-6  # share of the rate at the first step

# Modules of the backbone whose torch names hold `norm`, and the bias table; the heads' batch norms
# are called `bn` and decay.
NO_DECAY = ("norm", "relative_position_bias_table")


def learning_rate(config: Config, step: Array | int) -> Array:
    """Rate of the 0-based `step`: linear decay to zero times linear warm-up.

    mmsegmentation's poly policy, power 1, minimum 0: the warm-up scales the decayed rate.
    """
    step = jnp.asarray(step, float)
    # (total - i) / total, not 1 - i / total: float32 would lose the last steps' digits.
    rate = config.learning_rate * (config.steps - step) / config.steps
    begun = step / max(config.warmup_steps, 1)
    warmup = begun + (1 - begun) * WARMUP_RATIO  # = 1 - (1 - begun) (1 - WARMUP_RATIO)
    return jnp.where(step < config.warmup_steps, rate * warmup, rate)


def decay_mask(params: dict[str, Any]) -> dict[str, Any]:
    """The same tree of bools, True where weight decay applies."""

    def decays(path: tuple[jax.tree_util.DictKey, ...], _: Array) -> bool:
        return not any(word in str(key.key) for key in path for word in NO_DECAY)

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW, betas 0.9 and 0.999, eps 1e-8, decoupled weight decay."""
    return optax.adamw(
        lambda step: learning_rate(config, step), weight_decay=config.weight_decay, mask=decay_mask
    )
