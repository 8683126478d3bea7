"""Training and evaluation steps: jit-compiled functions of plain dicts.

The network is split once into its graph definition and dicts of arrays; inside the compiled
functions it is merged again. The mesh has one axis, `data`, over all devices: batches are sharded
along it, everything else is replicated, and jit inserts the communication.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxparse.config import Config
from jaxparse.losses import cross_entropy
from jaxparse.metrics import confusion_matrix, highest_class, pixel_accuracy
from jaxparse.models import build_model, split_model
from jaxparse.models.ops.resize import apply_class_first, resize_logits, resize_matrix
from jaxparse.models.segmentor import normalise
from jaxparse.optim import make_optimizer
from jaxparse.precision import LossScale, adjust, all_finite, average, initial_loss_scale, select

Batch = dict[str, Array]


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


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that only the first start of a command compiles.

    In JAX_COMPILATION_CACHE_DIR, or else in ~/.cache/jaxparse.
    """
    if not jax.config.jax_compilation_cache_dir:
        folder = Path.home() / ".cache" / "jaxparse"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over the devices, by default all of all processes."""
    devices = jax.devices() if devices is None else devices
    kind = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), kind, devices=devices)


def require_shards(count: int, mesh: Mesh) -> None:
    """Raises ValueError unless `count` pictures at a time divide among the devices."""
    if count % mesh.size:
        raise ValueError(
            f"{count} pictures at a time are no multiple of {mesh.size} devices; give another "
            "--batch-size"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This process's share of a batch, put on its devices."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.make_array_from_process_local_data(sharding, batch)


def init_state(config: Config, mesh: Mesh) -> TrainState:
    """The state before the first step, from noise of `config.seed`."""

    def init() -> TrainState:
        model = build_model(config, jax.random.key(config.seed))
        _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, batch_stats = nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
        opt_state = make_optimizer(config).init(params)
        loss_scale = initial_loss_scale() if config.precision == "float16" else None
        ema = {"params": params, "batch_stats": batch_stats} if config.ema_decay else None
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state, loss_scale, ema)

    return jax.jit(init, out_shardings=replicated(mesh))()


def losses(
    graphdef: nnx.GraphDef,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    image: Array,
    label: Array,
    key: Array,
    auxiliary_weight: float,
    remat: bool = False,
) -> tuple[Array, tuple[StepMetrics, dict[str, Any]]]:
    """Total loss, its metrics and the new batch_stats, in training mode.

    `image` is normalised [B, H, W, 3], of the type that the network runs in; `label` [B, H, W]
    holds 0..18 and 255.
    """
    model = nnx.merge(graphdef, params, batch_stats)
    model = nnx.view(model, deterministic=False, use_running_average=False, remat=remat)
    logits = model(image, nnx.Rngs(dropout=key))
    decode, auxiliary = (resize_logits(x, label.shape[1:3]) for x in logits)
    decode_loss = cross_entropy(decode, label)
    auxiliary_loss = auxiliary_weight * cross_entropy(auxiliary, label)
    loss = decode_loss + auxiliary_loss
    accuracy = pixel_accuracy(highest_class(decode), label)
    metrics = StepMetrics(loss, decode_loss, auxiliary_loss, accuracy)
    return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))


def gradients(
    graphdef: nnx.GraphDef, state: TrainState, batch: Batch, key: Array, config: Config
) -> tuple[dict[str, Any], StepMetrics, dict[str, Any]]:
    """Gradients of the params, metrics and the new batch_stats, over one part of a batch."""
    image, scale = normalise(batch["image"]), 1
    if config.precision != "float32":
        image = image.astype(config.precision)
    if state.loss_scale:
        scale = state.loss_scale.scale

    def loss_function(params: dict[str, Any]) -> tuple[Array, Any]:
        loss, rest = losses(
            graphdef,
            params,
            state.batch_stats,
            image,
            batch["label"],
            key,
            config.auxiliary_weight,
            config.remat,
        )
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

    def add_part(carry: Any, part: tuple[Array, Batch]) -> tuple[Any, StepMetrics]:  # noqa: ANN401
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
    Dropout draws from the seed folded with the step, so a resumed run is the uninterrupted one.
    """
    graphdef, _, _ = split_model(config)
    optimizer = make_optimizer(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
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


def predict_label(logits: Array, size: Array, padded: tuple[int, int]) -> Array:
    """Logits [h, w, C] of one picture -> its classes at its own size, uint8 [*padded].

    `size` int32 [2] is the picture's height and width, at most `padded`; pixels outside of it
    mean nothing. The size is an argument, not a shape: pictures of many sizes share one program.
    """
    matrices = (
        resize_matrix(i, o, rows)
        for i, o, rows in zip(logits.shape[:2], size.astype(logits.dtype), padded, strict=True)
    )
    return highest_class(apply_class_first(logits[None], *matrices))[0]


def make_logits_step(config: Config) -> Callable[..., Array]:
    """The compiled network in evaluation mode.

    (params, batch_stats, image uint8 [B, H, W, 3]) -> decode logits float32 [B, h, w, 19].
    """
    graphdef, _, _ = split_model(config)

    def logits_step(params: dict[str, Any], batch_stats: dict[str, Any], image: Array) -> Array:
        model = nnx.merge(graphdef, params, batch_stats)
        return model(normalise(image)).decode

    return jax.jit(logits_step)


def make_eval_step(config: Config) -> Callable[..., Array]:
    """The compiled evaluation of one batch, as `data.make_eval_loader` gives it.

    (params, batch_stats, {image, label, size}) -> confusion matrix int32 [19, 19]. One program per
    size of the padded labels.
    """
    logits_step = make_logits_step(config)

    def eval_step(params: dict[str, Any], batch_stats: dict[str, Any], batch: Batch) -> Array:
        logits = logits_step(params, batch_stats, batch["image"])
        label = batch["label"]
        # One picture at a time, 19 full-size maps each. Two loops: in one, XLA would compute the
        # prediction anew for each of the 19 rows that are counted, 8 times as slow.
        predictions = jax.lax.map(
            lambda picture: predict_label(*picture, label.shape[1:]), (logits, batch["size"])
        )
        counts = jax.lax.map(lambda picture: confusion_matrix(*picture), (label, predictions))
        return counts.sum(0)

    mesh, everywhere, shards = make_mesh(), PartitionSpec(), PartitionSpec("data")
    if mesh.size == 1:
        return jax.jit(eval_step)

    # A loop over the pictures of all devices would gather them on each.
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(everywhere, everywhere, shards),
        out_specs=everywhere,
        check_vma=False,
    )
    def sharded_step(params: dict[str, Any], batch_stats: dict[str, Any], batch: Batch) -> Array:
        return jax.lax.psum(eval_step(params, batch_stats, batch), "data")

    return jax.jit(sharded_step)
