"""The mean of a run's last weights (stochastic weight averaging, Izmailov et al. 2018).

arXiv:1803.05407, section 3.3: the running statistics of batch norm belong to other weights than the
mean, so they are computed again from training pictures. As in torch's `update_bn` they are the
cumulative averages over batches; unlike there nothing is dropped, since nothing is dropped where
they are used.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.config import Config
from jaxparse.devices import make_mesh, replicated, shard_batch
from jaxparse.models import split_model
from jaxparse.models.layers import BATCH_NORM_MOMENTUM
from jaxparse.models.segmentor import normalise
from jaxparse.weights.files import load_weights

EVALUATIONS = "evaluations"  # folder in a run's: STEP.safetensors of its last evaluations


def kept_evaluations(workdir: str | Path) -> list[Path]:
    """The weights that the run keeps of its last evaluations, oldest first."""
    files = (Path(workdir) / EVALUATIONS).glob("*.safetensors")
    return sorted((path for path in files if path.stem.isdigit()), key=lambda path: int(path.stem))


def mean_weights(paths: Sequence[Path], config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The mean of params and of batch_stats over weights files, float32, added up in float64."""
    _, *shapes = split_model(config)
    sums = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    for path in paths:
        sums = jax.tree.map(np.add, sums, list(load_weights(path, config, *shapes)))
    params, batch_stats = jax.tree.map(lambda x: (x / len(paths)).astype(np.float32), sums)
    return params, batch_stats


def is_statistic(path: tuple[jax.tree_util.DictKey, ...]) -> bool:
    """Whether the array at `path` in batch_stats is a running statistic, not a constant."""
    return path[-1].key in ("mean", "var")


def zeroed_statistics(batch_stats: dict[str, Any]) -> dict[str, Any]:
    """`batch_stats` with zeros for running statistics."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if is_statistic(path) else x, batch_stats
    )


def make_statistics_step(config: Config) -> Callable[..., dict[str, Any]]:
    """The compiled step: (params, average of the batches before, image, number) -> average.

    `image` is uint8 [B, S, S, 3], `number` that of the batch, from 1. Float32 whatever the run's
    precision, as in evaluation. Donates the average.
    """
    graphdef, _, _ = split_model(config)

    def statistics_step(
        params: dict[str, Any], average: dict[str, Any], image: Array, number: Array
    ) -> dict[str, Any]:
        model = nnx.merge(graphdef, params, zeroed_statistics(average))
        mode = {"deterministic": True, "use_running_average": False, "remat": False}
        model = nnx.view(model, raise_if_not_found=False, **mode)  # BiSeNet has no dropout
        model(normalise(image, config))
        # Running statistics that start at 0 are now this share of the batch's.
        share = 1 - BATCH_NORM_MOMENTUM
        running = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        def add(path: tuple[Any, ...], a: Array, b: Array) -> Array:
            return a + (b / share - a) / number if is_statistic(path) else a

        return jax.tree_util.tree_map_with_path(add, average, running)

    return jax.jit(statistics_step, donate_argnums=1)


def batch_statistics(
    config: Config,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    batches: Iterable[dict[str, np.ndarray]],
) -> dict[str, Any]:
    """Means and unbiased variances of all batch norms, averaged over the batches.

    `batch_stats` gives names, shapes and constants, which stay as they are; a batch is one of
    `data.loaders.make_train_loader`.
    """
    mesh, step = make_mesh(), make_statistics_step(config)
    params, batch_stats = jax.device_put((params, batch_stats), replicated(mesh))
    average = zeroed_statistics(jax.tree.map(jnp.copy, batch_stats))  # which the step donates
    for number, batch in enumerate(batches, start=1):
        image = shard_batch({"image": batch["image"]}, mesh)["image"]
        average = step(params, average, image, np.float32(number))
    return jax.device_get(average)
