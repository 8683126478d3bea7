"""The optimisers of recipes: AdamW and SGD under a poly schedule with linear warm-up."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxparse.config import Config

WARMUP_RATIO = 1e-6  # share of the rate at the first step

# Modules of the backbone whose torch names hold `norm`, and the bias table; batch norms are called
# `bn` and decay.
NO_DECAY = ("norm", "relative_position_bias_table")


def learning_rate(config: Config, step: Array | int) -> Array:
    """Rate of the 0-based `step`: poly decay times linear warm-up.

    mmsegmentation's poly policy: (base - min) · (1 - step / steps)^power + min. The warm-up scales
    the decayed rate.
    """
    step = jnp.asarray(step, float)
    # (total - i) / total, not 1 - i / total: float32 would lose the last steps' digits.
    left = (config.steps - step) / config.steps
    span = config.learning_rate - config.min_learning_rate
    rate = span * left**config.poly_power + config.min_learning_rate
    begun = step / max(config.warmup_steps, 1)
    warmup = begun + (1 - begun) * WARMUP_RATIO  # = 1 - (1 - begun) (1 - WARMUP_RATIO)
    return jnp.where(step < config.warmup_steps, rate * warmup, rate)


def decay_mask(params: dict[str, Any]) -> dict[str, Any]:
    """The same tree of bools, True where AdamW's weight decay applies."""

    def decays(path: tuple[jax.tree_util.DictKey, ...], _: Array) -> bool:
        return not any(word in str(key.key) for key in path for word in NO_DECAY)

    return jax.tree_util.tree_map_with_path(decays, params)


def make_adamw(config: Config) -> optax.GradientTransformation:
    """AdamW, betas 0.9 and 0.999, eps 1e-8, decoupled weight decay."""
    return optax.adamw(
        lambda step: learning_rate(config, step), weight_decay=config.weight_decay, mask=decay_mask
    )


def make_sgd(config: Config) -> optax.GradientTransformation:
    """SGD with momentum as in torch: weight decay on all, added to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(lambda step: learning_rate(config, step), config.momentum or None),
    )


OPTIMIZERS = {"adamw": make_adamw, "sgd": make_sgd}


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """The optimiser of `config`."""
    optimizer = OPTIMIZERS[config.optimizer](config)
    if config.backbone_rate == 1:
        return optimizer
    scale = optax.masked(
        optax.scale(config.backbone_rate),
        lambda params: {name: name == "backbone" for name in params},
    )
    return optax.chain(optimizer, scale)
