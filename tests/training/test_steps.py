from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxparse.config import Config
from jaxparse.devices import PyTree, make_mesh
from jaxparse.models import split_model
from jaxparse.training import steps
from jaxparse.training.steps import init_state, start_state
from jaxparse.weights.files import flatten, save_weights
from tests.runs import CONFIG


@pytest.mark.parametrize("whole", [True, False])
def test_starts_from_the_weights_of_a_backbone_or_a_segmentor(whole: bool, tmp_path: Path) -> None:
    initial = init_state(CONFIG, make_mesh())
    before = flatten(initial.params) | flatten(initial.batch_stats)
    names = [name for name in before if whole or name.startswith("backbone.")]
    arrays = {name: np.full(before[name].shape, 0.5, "f4") for name in names}
    path, fresh = tmp_path / "w.safetensors", ("decode_head.", "auxiliary_head.")
    save_weights(path, arrays, CONFIG, "a test", () if whole else fresh)
    state = start_state(replace(CONFIG, ema_decay=0.9), make_mesh(), path)
    for name, array in (flatten(state.params) | flatten(state.batch_stats)).items():
        np.testing.assert_array_equal(array, arrays.get(name, before[name]))
    averages = flatten(state.ema["params"]) | flatten(state.ema["batch_stats"])
    for name, array in (flatten(state.params) | flatten(state.batch_stats)).items():
        np.testing.assert_array_equal(averages[name], array)
        assert averages[name].unsafe_buffer_pointer() != array.unsafe_buffer_pointer()


def test_both_heads_have_the_loss_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own map, against the whole label, and the auxiliary head's by its weight."""
    config, shapes = replace(CONFIG, lovasz_weight=2.0, auxiliary_weight=0.25), []

    def two(logits: Array, label: Array, config: Config) -> Array:
        shapes.append((logits.shape, label.shape))
        return jnp.float32(config.lovasz_weight)

    monkeypatch.setattr(steps, "total_loss", two)
    image, label = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64, 64), jnp.uint8)

    @jax.jit  # which leaves the network out
    def parts(params: PyTree, batch_stats: PyTree) -> tuple[Array, ...]:
        args = (graphdef, params, batch_stats, image, label, jax.random.key(0), config)
        total, (metrics, _) = steps.losses(*args)
        return total, metrics.loss, metrics.decode_loss, metrics.auxiliary_loss

    graphdef, *trees = split_model(config)
    trees = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), trees)
    assert [float(part) for part in parts(*trees)] == [2.5, 2.5, 2, 0.5]
    assert shapes == [((1, side, side, 19), (1, 64, 64)) for side in (16, 4)]


def test_a_network_need_not_have_an_auxiliary_head() -> None:
    config = replace(CONFIG, auxiliary_channels=0)
    graphdef, *trees = split_model(config)
    assert trees[0].keys() == {"backbone", "decode_head"}
    image, label = np.zeros((1, 64, 64, 3), np.float32), np.zeros((1, 64, 64), np.uint8)
    step = partial(steps.losses, graphdef, config=config)
    total, (metrics, _) = jax.eval_shape(step, *trees, image, label, key=jax.random.key(0))
    assert total.shape == metrics.auxiliary_loss.shape == ()
