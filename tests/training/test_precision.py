"""16-bit training, loss scaling, gradient accumulation and checkpointing, averages of weights."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.extend.core import Jaxpr, jaxprs_in_params

from jaxparse.config import Config, load_experiment
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import Batch, make_mesh
from jaxparse.models import split_model
from jaxparse.models.layers import BatchNorm
from jaxparse.models.resnet import Bottleneck
from jaxparse.models.swin import SwinBlock
from jaxparse.training import steps
from jaxparse.training.loss_scale import GROWTH_STEPS, LossScale, adjust, initial_loss_scale
from jaxparse.training.optim import make_optimizer
from jaxparse.training.steps import (
    StepMetrics,
    TrainState,
    accumulated_gradients,
    average,
    gradients,
    init_state,
    make_train_step,
)
from tests import mini
from tests.reference import FAST_COMPILE

CONFIG = replace(mini.config, batch_size=2, synthetic_train_count=40, warmup_steps=20, steps=200)
STEPS = 10
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # of 1, relative


def first_batches(count: int) -> list[Batch]:
    loader = make_train_loader(CONFIG)
    return [{k: v for k, v in next(loader).items() if k != "name"} for _ in range(count)]


def as_numpy(state: TrainState) -> TrainState:
    """Copies that outlive the donation."""
    return jax.tree.map(np.array, state)


def assert_same(ours: Any, theirs: Any) -> None:  # noqa: ANN401
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


class Training:
    """A step on each of the same pictures, from the same weights."""

    def __init__(self, batches: list[Batch], **changes: Any) -> None:  # noqa: ANN401
        config = replace(CONFIG, **changes)
        self.state = init_state(CONFIG, make_mesh())
        if config.precision == "float16":
            self.state = self.state._replace(loss_scale=initial_loss_scale())
        lowered = make_train_step(config).lower(self.state, batches[0])
        self.step = lowered.compile(FAST_COMPILE)
        losses = []
        for batch in batches:
            self.state, metrics = self.step(self.state, batch)
            losses.append(metrics.loss)
        self.losses = np.array(losses)


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return first_batches(STEPS)


@pytest.fixture(scope="module")
def float32(batches: list[Batch]) -> Training:
    return Training(batches)


@pytest.fixture(scope="module")
def bfloat16(batches: list[Batch]) -> Training:
    return Training(batches, precision="bfloat16")


@pytest.fixture(scope="module")
def float16(batches: list[Batch]) -> Training:
    return Training(batches, precision="float16")


def require_close_losses(ours: Training, theirs: Training, precision: str) -> None:
    """Each loss within a few roundings of one number of that type."""
    distance = abs(ours.losses / theirs.losses - 1)
    assert distance.max() < 4 * ROUNDING[precision]
    assert distance.max() > 0  # the type is in use


@pytest.mark.full
def test_bfloat16_learns_as_float32(bfloat16: Training, float32: Training) -> None:
    require_close_losses(bfloat16, float32, "bfloat16")


@pytest.mark.full
def test_float16_learns_as_float32(float16: Training, float32: Training) -> None:
    require_close_losses(float16, float32, "float16")
    assert float16.state.loss_scale == (2.0**15, STEPS)


@pytest.mark.full
@pytest.mark.parametrize("precision", ROUNDING)
def test_a_hundred_steps_reach_the_same_loss(precision: str) -> None:
    batches = first_batches(100)
    ends = []
    for changes in ({}, {"precision": precision}):
        losses = Training(batches, **changes).losses
        assert losses[-10:].mean() < losses[0] - 0.5  # it learns
        ends.append(losses[-10:].mean())
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


@pytest.mark.full
def test_weights_and_state_stay_float32(bfloat16: Training) -> None:
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(bfloat16.state)}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}


@pytest.mark.full
def test_overflow_halves_the_scale_and_skips_the_step(
    batches: list[Batch], float16: Training
) -> None:
    planted = LossScale(jnp.float32(2.0**60), jnp.int32(7))
    before = as_numpy(float16.state)
    state = jax.device_put(before._replace(loss_scale=planted))
    state, metrics = float16.step(state, batches[0])
    assert np.isfinite(metrics.loss)
    assert (metrics.loss_scale, *state.loss_scale) == (2.0**59, 2.0**59, 0)
    assert state.step == before.step + 1
    after = as_numpy(state)
    assert_same(after._replace(step=0, loss_scale=None), before._replace(step=0, loss_scale=None))

    state, metrics = float16.step(state._replace(loss_scale=initial_loss_scale()), batches[1])
    assert (metrics.loss_scale, *state.loss_scale) == (2.0**15, 2.0**15, 1)
    moved = jax.tree.map(lambda a, b: abs(a - b).max() > 0, after.params, as_numpy(state).params)
    assert all(jax.tree.leaves(moved))


def test_whole_state_is_donated(float32: Training) -> None:
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(float32.state))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(float32.state.params))
    assert size > 3 * weights  # weights, their two moments, statistics
    assert float32.step.memory_analysis().alias_size_in_bytes == size


def test_scale_doubles_after_2000_good_steps() -> None:
    start = LossScale(jnp.float32(8), jnp.int32(GROWTH_STEPS - 2))
    one = adjust(start, jnp.bool_(True))
    assert one == (8, 1999)
    assert adjust(one, jnp.bool_(True)) == (16, 0)
    assert adjust(one, jnp.bool_(False)) == (4, 0)


def test_average_by_hand() -> None:
    """Decay 1/10, then 2/11, then 0.15 < 3/12."""
    old, result = jnp.float32(1), []
    for step, new in enumerate((2, 4, 8)):
        old = average(0.2, jnp.int32(step), old, jnp.float32(new))
        result.append(float(old))
    first = 0.1 * 1 + 0.9 * 2
    second = 2 / 11 * first + 9 / 11 * 4
    assert result == pytest.approx([first, second, 0.2 * second + 0.8 * 8], rel=1e-6)


def products(jaxpr: Jaxpr) -> Iterator[tuple[Any, ...]]:
    """Input types and shapes of all products and convolutions, those of inner functions too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield tuple((v.aval.dtype.name, v.aval.shape) for v in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def traced_products(config: Config) -> list[tuple[Any, ...]]:
    graphdef, params, batch_stats = split_model(config)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, batch_stats, None)
    side = (2, config.image_size, config.image_size)
    batch = {
        "image": jax.ShapeDtypeStruct((*side, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct(side, jnp.uint8),
    }

    def run(state: TrainState, batch: Batch) -> Any:  # noqa: ANN401
        return gradients(graphdef, state, batch, jax.random.key(0), config)

    return list(products(jax.make_jaxpr(run)(state, batch).jaxpr))


@pytest.mark.parametrize(
    "name",
    [
        "swin_nano",
        pytest.param("deeplabv3plus_r50_20k", marks=pytest.mark.full),
        pytest.param("psanet_r50_80k", marks=pytest.mark.full),
        pytest.param("bisenet_r18", marks=pytest.mark.full),
        pytest.param("farl_vit_b16", marks=pytest.mark.full),
        pytest.param("parsenet", marks=pytest.mark.full),
    ],
)
def test_products_are_16_bits_but_those_of_logits(name: str) -> None:
    config = replace(load_experiment(name), image_size=64, precision="bfloat16")
    found = traced_products(config)
    assert len(found) > 150
    for operands in found:
        if any(19 in shape for _, shape in operands):  # classifiers and the resizing of logits
            assert {dtype for dtype, _ in operands} == {"float32"}
        else:
            assert {dtype for dtype, _ in operands} == {"bfloat16"}, operands


def block_results(block: nnx.Module, remat: bool) -> tuple[Any, ...]:
    """Loss, gradients of params and input, new statistics, next dropout key."""
    graphdef, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    x = jax.random.normal(jax.random.key(1), (4, 10, 10, 64))

    def loss(params: dict[str, Any], x: Array) -> tuple[Array, Any]:
        model = nnx.merge(graphdef, params, stats)
        with_norm = {"use_running_average": False} if stats else {"deterministic": False}
        model = nnx.view(model, **with_norm, remat=remat)
        rngs = nnx.Rngs(dropout=3)
        out = model(x, rngs) if isinstance(block, SwinBlock) else model(x)
        new = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return jnp.sin(out).sum(), (new, rngs.dropout.count[...])

    gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
    run = jax.jit(gradient, compiler_options=FAST_COMPILE)
    assert ("remat" in str(run.trace(params, x).jaxpr)) == remat
    return run(params, x)


@pytest.mark.parametrize("kind", ["swin", "resnet"])
def test_recomputed_blocks_give_the_same(kind: str) -> None:
    """Half of the pictures lose a branch; the running statistics change."""
    if kind == "swin":
        block: nnx.Module = SwinBlock(64, 2, 3, 0.5, shift_single=True, rngs=nnx.Rngs(0))
    else:
        block = Bottleneck(64, 16, 1, 2, rngs=nnx.Rngs(0))
        block.bn3.scale[...] = jnp.ones(64)
    (loss, (stats, count)), grads = block_results(block, remat=False)
    (loss2, (stats2, count2)), grads2 = block_results(block, remat=True)
    assert count == count2 == (2 if kind == "swin" else 0)
    assert loss2 == pytest.approx(float(loss), rel=1e-6)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(stats2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        assert abs(a).max() > 0
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, blocks",
    [("swin_nano", 8), pytest.param("deeplabv3plus_r50_20k", 16, marks=pytest.mark.full)],
)
def test_every_block_is_recomputed(name: str, blocks: int) -> None:
    config = replace(load_experiment(name), image_size=64)
    plain = len(traced_products(config))
    assert len(traced_products(replace(config, remat=True))) >= plain + 3 * blocks


@pytest.mark.full
def test_parts_of_a_batch_give_the_gradient_of_the_whole_without_batch_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BatchNorm, "set_view", lambda self, use_running_average: None)
    config = replace(CONFIG, batch_size=4, dropout_rate=0, drop_path_rate=0)
    graphdef, params, batch_stats = split_model(config)
    params, batch_stats = (
        jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) / 8, t)
        for t in (params, batch_stats)
    )
    batch_stats = jax.tree.map(abs, batch_stats)
    state = TrainState(jnp.int32(0), params, batch_stats, None)
    pair = first_batches(2)
    batch = {k: jnp.concatenate([b[k] for b in pair]) for k in ("image", "label")}
    results = []
    for parts in (1, 2):
        of_parts = replace(config, accumulate_steps=parts)

        def run(state: TrainState, batch: Batch, config: Config = of_parts) -> Any:  # noqa: ANN401
            return accumulated_gradients(graphdef, state, batch, jax.random.key(0), config)

        results.append(jax.jit(run, compiler_options=FAST_COMPILE)(state, batch))
    (grads, metrics, _), (grads2, metrics2, _) = results
    assert metrics2.loss == pytest.approx(float(metrics.loss), rel=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * abs(a).max())


def toy_losses(
    graphdef: None,
    params: dict[str, Array],
    batch_stats: dict[str, Array],
    image: Array,
    label: Array,
    key: Array,
    *_: object,
) -> tuple[Array, tuple[StepMetrics, dict[str, Array]]]:
    """w times (mean + noise); a running mean of a half."""
    loss = params["w"] * (image.mean() + jax.random.uniform(key))
    metrics = StepMetrics(loss, loss, loss, loss)
    return loss, (metrics, {"mean": (batch_stats["mean"] + image.mean()) / 2})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "losses", toy_losses)
    monkeypatch.setattr(steps, "normalise", lambda image, config: image)


@pytest.mark.usefixtures("toy")
def test_parts_draw_their_own_dropout_and_pass_on_running_statistics() -> None:
    config = Config(batch_size=4, accumulate_steps=2)
    state = TrainState(jnp.int32(0), {"w": jnp.float32(3)}, {"mean": jnp.float32(8)}, None)
    batch = {"image": jnp.float32([1, 10, 3, 20]), "label": jnp.zeros(4)}
    key = jax.random.key(5)
    grads, metrics, stats = accumulated_gradients(None, state, batch, key, config)
    noise = [jax.random.uniform(jax.random.fold_in(key, part)) for part in (0, 1)]
    expected = (2 + noise[0] + 15 + noise[1]) / 2  # pictures 0 and 2, then 1 and 3
    assert grads["w"] == pytest.approx(float(expected), rel=1e-6)
    assert metrics.loss == pytest.approx(float(3 * expected), rel=1e-6)
    assert stats["mean"] == ((8 + 2) / 2 + 15) / 2


@pytest.mark.usefixtures("toy")
def test_step_averages_weights_and_running_statistics() -> None:
    changes = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.5, "weight_decay": 0.0}
    config = Config(batch_size=4, ema_decay=0.9, warmup_steps=0, poly_power=0.0, **changes)
    params, stats = {"w": jnp.float32(3)}, {"mean": jnp.float32(8)}
    ema = {"params": {"w": jnp.float32(3)}, "batch_stats": {"mean": jnp.float32(8)}}
    state = TrainState(jnp.int32(0), params, stats, make_optimizer(config).init(params), None, ema)
    image = jnp.float32([4, 4, 4, 4])
    weights, means = [3.0], [8.0]
    for share in (1 / 10, 2 / 11):  # the share of the old
        state, _ = make_train_step(config)(state, {"image": image, "label": image})
        weights.append(share * weights[-1] + (1 - share) * float(state.params["w"]))
        means.append(share * means[-1] + (1 - share) * float(state.batch_stats["mean"]))
    assert state.params["w"] < 3 - 2 * 0.5 * 4
    assert state.batch_stats["mean"] == 5
    assert state.ema["params"]["w"] == pytest.approx(weights[-1], rel=1e-6)
    assert state.ema["batch_stats"]["mean"] == pytest.approx(means[-1], rel=1e-6)
