"""Schedules and optimisers against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxparse.config import Config, load_experiment
from jaxparse.models import split_model
from jaxparse.training.optim import decay_mask, learning_rate, make_optimizer
from jaxparse.weights.files import flatten
from tests import reference

# Experiment -> rate at iterations 0, 1, 749, 1499, 1500, half-way and the last.
RATES = {
    # 6e-5 (1 - i/160000), before 1500 times 1 - (1 - i/1500) (1 - 1e-6)
    "swin_t": (6e-11, 4.0059709625e-8, 2.9819779649e-5, 5.9398249790e-5, 5.94375e-5)
    + (3e-5, 3.75e-10),
    # (0.01 - 1e-4) (1 - i/20000)^0.9 + 1e-4
    "deeplabv3plus_r50_20k": (0.01, 9.9995544989e-3, 9.6656869327e-3, 9.3296212883e-3)
    + (9.3291723027e-3, 5.4052786396e-3, 1.0133262574e-4),
    # (0.01 - 1e-4) (1 - i/80000)^0.9 + 1e-4
    "psanet_r50_80k": (0.01, 9.9998886249e-3, 9.9165409393e-3, 9.8328913774e-3)
    + (9.8327797914e-3, 5.4052786396e-3, 1.0038269625e-4),
    # (1e-4 - 1e-5) (1 - i/20000)^0.9 + 1e-5
    "deeplabv3plus_r50_finetune": (1e-4, 9.9995949990e-5, 9.6960790297e-5, 9.3905648075e-5)
    + (9.3901566389e-5, 5.8229805814e-5, 1.0012114779e-5),
}
Tree = dict[str, dict[str, jax.Array]]


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_of_the_recipes(name: str) -> None:
    config = load_experiment(name)
    steps = (0, 1, 749, 1499, 1500, config.steps // 2, config.steps - 1)
    for step, expected in zip(steps, RATES[name], strict=True):
        assert float(learning_rate(config, step)) == pytest.approx(expected, 1e-6), step
        with reference.precision("float64"):
            assert float(learning_rate(config, step)) == pytest.approx(expected, 1e-9), step


def test_no_warmup() -> None:
    config = Config(learning_rate=1.0, steps=10, warmup_steps=0)
    assert [float(learning_rate(config, step)) for step in (0, 5, 9)] == pytest.approx(
        [1.0, 0.5, 0.1]
    )


def test_exempt_from_decay_are_the_parameters_whose_torch_names_say_so() -> None:
    names = reference.our_names("mmseg_swin_t")
    _, params, _ = split_model(load_experiment("swin_t"))
    decays = flatten(decay_mask(params))
    expected = {
        ours
        for torchs, ours in names.items()
        if "norm" in torchs or torchs.endswith("relative_position_bias_table")
    }
    assert {name for name, decayed in decays.items() if not decayed} == expected
    # 1 patch norm, 3 merging norms, 4 output norms, 2 in each of 12 blocks; scale and bias each.
    assert len(expected) == 2 * (1 + 3 + 4 + 24) + 12
    # Batch norms, whose torch names hold `bn`, and all other biases decay.
    assert decays["decode_head.bottleneck.bn.scale"]
    assert decays["backbone.layers.0.blocks.0.attn.qkv.bias"]


def updated(config: Config, params: Tree, grads: list[Tree]) -> Tree:
    """`params` after one step by each of `grads`."""
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_one_adamw_update_by_the_formula() -> None:
    """First step: m̂ = g, v̂ = g², so the update is lr (g / (|g| + eps) + decay · w)."""
    config = Config(learning_rate=0.1, steps=10, warmup_steps=0, weight_decay=0.5)
    params = {
        "conv": {"kernel": jnp.array([2.0, -4.0])},
        "norm": {"scale": jnp.array([2.0, -4.0])},
    }
    grads = {"conv": {"kernel": jnp.array([3.0, 1e-8])}, "norm": {"scale": jnp.array([-3.0, 5.0])}}
    after = updated(config, params, [grads])
    # 2 - 0.1 (1 + 0.5 · 2), -4 - 0.1 (1/2 - 0.5 · 4)
    np.testing.assert_allclose(after["conv"]["kernel"], [1.8, -3.85], rtol=1e-6)
    np.testing.assert_allclose(after["norm"]["scale"], [2.1, -4.1], rtol=1e-6)


def test_two_adamw_updates_by_the_formula() -> None:
    """Second step, g = 1 then 3: m̂ = (0.1 · 0.9 · 1 + 0.1 · 3) / 0.19, v̂ = 9.999 / 1.999."""
    config = Config(learning_rate=0.1, steps=10, warmup_steps=0, weight_decay=0.0)
    grads = [{"conv": {"kernel": jnp.array([g])}} for g in (1.0, 3.0)]
    after = updated(config, {"conv": {"kernel": jnp.array([1.0])}}, grads)
    # 1 - 0.1 - 0.09 · 2.0526316 / 2.2365154; float32 has 4 digits of 1 - 0.999².
    np.testing.assert_allclose(after["conv"]["kernel"], [0.8173997], rtol=1e-5)


SGD = Config(optimizer="sgd", learning_rate=0.1, steps=10, warmup_steps=0, weight_decay=0.5)


def test_two_sgd_updates_by_the_formula() -> None:
    """As in torch: d = g + decay · w, buffer = momentum · buffer + d, w -= lr · buffer."""
    grads = [{"conv": {"kernel": jnp.array([g, 0.0])}} for g in (3.0, -1.0)]
    after = updated(SGD, {"conv": {"kernel": jnp.array([2.0, -4.0])}}, grads)
    # Buffers 3 + 1 = 4 and -2: weights 1.6 and -3.8. Then, at 0.09,
    # 0.9 · 4 - 1 + 0.8 = 3.4 and 0.9 · -2 - 1.9 = -3.7: 1.6 - 0.306 and -3.8 + 0.333.
    np.testing.assert_allclose(after["conv"]["kernel"], [1.294, -3.467], rtol=1e-6)


def test_sgd_without_momentum_decays_all() -> None:
    config = Config(**vars(SGD) | {"momentum": 0.0})
    names = ("norm", "bn", "conv", "relative_position_bias_table")
    params = {name: {"scale": jnp.array([2.0, -4.0])} for name in names}
    grads = {name: {"scale": jnp.array([3.0, 0.0])} for name in names}
    after = updated(config, params, [grads, grads])
    for name in names:
        # 2 - 0.1 (3 + 1) = 1.6, 1.6 - 0.09 (3 + 0.8); -4 + 0.1 · 2 = -3.8, -3.8 + 0.09 · 1.9
        np.testing.assert_allclose(after[name]["scale"], [1.258, -3.629], rtol=1e-6)


def test_memory_of_the_optimisers() -> None:
    params = {"kernel": jnp.zeros(3)}
    configs = {"momentum": SGD, "none": Config(**vars(SGD) | {"momentum": 0.0}), "adamw": Config()}
    sizes = {
        name: sum(leaf.size > 1 for leaf in jax.tree.leaves(make_optimizer(config).init(params)))
        for name, config in configs.items()
    }
    assert sizes == {"momentum": 1, "none": 0, "adamw": 2}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_backbone_learns_at_its_own_rate(optimizer: str) -> None:
    tree = {part: {"kernel": jnp.full(3, 2.0)} for part in ("backbone", "decode_head")}

    def update(**changes: float) -> Tree:
        chosen = make_optimizer(Config(optimizer=optimizer, warmup_steps=0, **changes))
        return chosen.update(tree, chosen.init(tree), tree)[0]

    whole, slower = update(), update(backbone_rate=0.25)
    np.testing.assert_allclose(slower["backbone"]["kernel"], 0.25 * whole["backbone"]["kernel"])
    np.testing.assert_array_equal(slower["decode_head"]["kernel"], whole["decode_head"]["kernel"])
