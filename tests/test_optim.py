"""Schedule and optimiser against hand-computed values."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.checkpoint import flatten
from jaxparse.config import Config, load_experiment
from jaxparse.models import split_model
from jaxparse.optim import decay_mask, learning_rate, make_optimizer


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 6e-11),  # 6e-5 · 1e-6
        (1, 4.005971e-8),  # 6e-5 · (1 - 1/160000) · (1 - (1499/1500)(1 - 1e-6))
        (749, 2.981978e-5),
        (1499, 5.939825e-5),
        (1500, 5.94375e-5),  # 6e-5 · (1 - 1500/160000)
        (80_000, 3e-5),
        (159_999, 3.75e-10),
    ],
)
def test_learning_rate_of_the_swin_recipe(step: int, expected: float) -> None:
    assert float(learning_rate(load_experiment("swin_t"), step)) == pytest.approx(expected, 1e-6)


def test_no_warmup() -> None:
    config = Config(learning_rate=1.0, steps=10, warmup_steps=0)
    assert [float(learning_rate(config, step)) for step in (0, 5, 9)] == pytest.approx(
        [1.0, 0.5, 0.1]
    )


def test_exempt_from_decay_are_the_backbones_norms_and_bias_tables() -> None:
    _, params, _ = split_model(load_experiment("swin_nano"))
    exempt = {name for name, decays in flatten(decay_mask(params)).items() if not decays}
    # 1 patch norm, 3 merging norms, 4 output norms, 2 in each of 8 blocks; scale and bias each.
    assert len(exempt) == 2 * (1 + 3 + 4 + 16) + 8
    assert all(name.startswith("backbone.") for name in exempt)
    assert "backbone.layers.1.downsample.norm.scale" in exempt
    assert "backbone.layers.0.blocks.1.attn.relative_position_bias_table" in exempt
    assert "backbone.norm3.bias" in exempt
    assert not any(".bn." in name or name.endswith("kernel") for name in exempt)


def test_one_adamw_update_by_the_formula() -> None:
    """First step: m̂ = g, v̂ = g², so the update is lr (g / (|g| + eps) + decay · w)."""
    config = Config(learning_rate=0.1, steps=10, warmup_steps=0, weight_decay=0.5)
    params = {
        "conv": {"kernel": jnp.array([2.0, -4.0])},
        "norm": {"scale": jnp.array([2.0, -4.0])},
    }
    grads = {"conv": {"kernel": jnp.array([3.0, 1e-8])}, "norm": {"scale": jnp.array([-3.0, 5.0])}}
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    kernel = [-0.1 * (3 / (3 + 1e-8) + 0.5 * 2), -0.1 * (1e-8 / (1e-8 + 1e-8) - 0.5 * 4)]
    np.testing.assert_allclose(updates["conv"]["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(updates["norm"]["scale"], [0.1, -0.1], rtol=1e-5)
