"""The training step and its state: a jit-compiled function of plain dicts.

The network is split once into its graph definition and dicts of arrays; inside the compiled
functions it is merged again. The mesh has one axis, `data`, over all devices: batches are sharded
along it, everything else is replicated, and jit inserts the communication.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from jaxparse.config import Config
from jaxparse.devices import Batch, PyTree, replicated
from jaxparse.models import build_model, split_model
from jaxparse.models.ops.resize import resize_logits
from jaxparse.models.segmentor import normalise
from jaxparse.parsing.network import highest_class
from jaxparse.training.augment import augment, augments, with_keys
from jaxparse.training.loss_scale import LossScale, adjust, all_finite, initial_loss_scale
from jaxparse.training.losses import total_loss
from jaxparse.training.metrics import pixel_accuracy
from jaxparse.training.optim import make_optimizer
from jaxparse.weights.conversion import start_weights


class TrainState(NamedTuple):
    """All that a step changes. `params` and `batch_stats` are nested dicts of arrays."""

    step: Array
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: optax.OptState
    loss_scale: LossScale | None = None  # of float16
    ema: dict[str, dict[str, Any]] | None = None  # moving averages of params and batch_stats


class StepMetrics(NamedTuple):
    """Scalars of one step, on the batch before its update."""

    loss: Array
    decode_loss: Array
    auxiliary_loss: Array  # already weighted
    pixel_accuracy: Array
    loss_scale: Array | None = None  # of float16, after the step


def init_state(config: Config, mesh: Mesh) -> TrainState:
    """The state before the first step, randomly initialised from `config.seed`."""

    def init() -> TrainState:
        model = build_model(config, jax.random.key(config.seed))
        _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, batch_stats = nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
        opt_state = make_optimizer(config).init(params)
        loss_scale = initial_loss_scale() if config.precision == "float16" else None
        ema = {"params": params, "batch_stats": batch_stats} if config.ema_decay else None
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state, loss_scale, ema)

    return jax.jit(init, out_shardings=replicated(mesh))()


def start_state(config: Config, mesh: Mesh, weights: Path | None) -> TrainState:
    """The state before the first step: random initialisation, then the file's weights over it."""
    state = init_state(config, mesh)
    if weights is None:
        return state
    loaded = start_weights(weights, config, state.params, state.batch_stats)
    weights = dict(zip(("params", "batch_stats"), loaded, strict=True))
    weights = jax.device_put(weights, replicated(mesh))
    # Copied: the step donates both.
    ema = jax.tree.map(jnp.copy, weights) if state.ema else None
    return state._replace(**weights, ema=ema)


def select(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """The tree `new` if the condition holds, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def average(decay: float, step: Array, old: PyTree, new: PyTree) -> PyTree:
    """Moving average of a tree after the 0-based `step`, faster at the start, as in TensorFlow.

    min(decay, (1 + step) / (10 + step)) of the old and the rest of the new.
    """
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, b: a + share.astype(a.dtype) * (b - a), old, new)


def losses(
    graphdef: nnx.GraphDef,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    image: Array,
    label: Array,
    key: Array,
    config: Config,
) -> tuple[Array, tuple[StepMetrics, dict[str, Any]]]:
    """Total loss, its metrics and the new batch_stats, in training mode.

    `image` is normalised [B, H, W, 3], of the type that the network runs in; `label` [B, H, W]
    holds 0..C-1 and 255.
    """
    model = nnx.merge(graphdef, params, batch_stats)
    mode = {"deterministic": False, "use_running_average": False, "remat": config.remat}
    model = nnx.view(model, raise_if_not_found=False, **mode)  # BiSeNet has no dropout
    logits = model(image, nnx.Rngs(dropout=key))
    decode_loss = total_loss(logits.decode, label, config)
    auxiliary_losses = sum((total_loss(x, label, config) for x in logits.auxiliary), jnp.zeros(()))
    auxiliary_loss = config.auxiliary_weight * auxiliary_losses
    loss = decode_loss + auxiliary_loss
    decode = resize_logits(logits.decode, label.shape[1:], config.align_corners)
    accuracy = pixel_accuracy(highest_class(decode), label)
    metrics = StepMetrics(loss, decode_loss, auxiliary_loss, accuracy)
    return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))


def gradients(
    graphdef: nnx.GraphDef, state: TrainState, batch: Batch, key: Array, config: Config
) -> tuple[dict[str, Any], StepMetrics, dict[str, Any]]:
    """Gradients of the params, metrics and the new batch_stats, over one part of a batch.

    A batch with a `key` of each picture is augmented.
    """
    if "key" in batch:
        batch = augment(batch, config)
    image, scale = normalise(batch["image"], config), 1
    if config.precision != "float32":
        image = image.astype(config.precision)
    if state.loss_scale:
        scale = state.loss_scale.scale

    def loss_function(params: dict[str, Any]) -> tuple[Array, Any]:
        label = batch["label"]
        loss, rest = losses(graphdef, params, state.batch_stats, image, label, key, config)
        return loss * scale, rest

    grads, (metrics, batch_stats) = jax.grad(loss_function, has_aux=True)(state.params)
    return jax.tree.map(lambda grad: grad / scale, grads), metrics, batch_stats


def accumulated_gradients(
    graphdef: nnx.GraphDef, state: TrainState, batch: Batch, key: Array, config: Config
) -> tuple[dict[str, Any], StepMetrics, dict[str, Any]]:
    """`gradients`, averaged over `config.accumulate_steps` parts of the batch, one at a time.

    batch_stats go from part to part. Part i is every accumulate_steps-th picture from i on, so
    that each device keeps its own pictures.
    """
    parts = config.accumulate_steps
    if parts == 1:
        return gradients(graphdef, state, batch, key, config)
    batch = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add_part(carry: PyTree, part: tuple[Array, Batch]) -> tuple[PyTree, StepMetrics]:
        total, batch_stats = carry
        index, pictures = part
        grads, metrics, batch_stats = gradients(
            graphdef,
            state._replace(batch_stats=batch_stats),
            pictures,
            jax.random.fold_in(key, index),
            config,
        )
        return (jax.tree.map(jnp.add, total, grads), batch_stats), metrics

    start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
    (total, batch_stats), metrics = jax.lax.scan(add_part, start, (jnp.arange(parts), batch))
    grads, metrics = (
        jax.tree.map(lambda x: x / parts, total),
        jax.tree.map(lambda x: x.mean(0), metrics),
    )
    return grads, metrics, batch_stats


def make_train_step(
    config: Config,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The compiled step: (state, {image u8, label u8}) -> (state, metrics). Donates the state.

    In float16 a step whose gradients overflow changes nothing but the loss scale and the count.
    Dropout and augmentation draw from the seed folded with the step, so a resumed run is the
    uninterrupted one.
    """
    graphdef, _, _ = split_model(config)
    optimizer = make_optimizer(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        if augments(config):
            batch = with_keys(batch, state.step, config)
        grads, metrics, batch_stats = accumulated_gradients(graphdef, state, batch, key, config)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state._replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
        if config.ema_decay:
            weights = {"params": params, "batch_stats": batch_stats}
            new = new._replace(ema=average(config.ema_decay, state.step, state.ema, weights))
        if state.loss_scale:
            finite = all_finite(grads)
            new = select(finite, new, state)._replace(loss_scale=adjust(state.loss_scale, finite))
            metrics = metrics._replace(loss_scale=new.loss_scale.scale)
        return new._replace(step=state.step + 1), metrics

    return jax.jit(train_step, donate_argnums=0)
