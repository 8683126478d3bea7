from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxparse.checkpoint import flatten, load_network, save_weights
from jaxparse.config import Config, load_experiment
from jaxparse.models import split_model
from jaxparse.steps import make_logits_step, make_mesh, replicated


class Nano(NamedTuple):
    """swin_nano for 64×64 with weights of noise that give varied masks."""

    config: Config
    experiment: str  # for --exp
    weights: str  # for --weights
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    network: Callable[[np.ndarray], jax.Array]  # images -> logits; compile it for batches of 4 only


def noise(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(".var"):
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 100
    offset = 1 if name.endswith(".scale") else 0
    return (offset + rng.normal(0, fan_in**-0.5, shape)).astype(np.float32)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests that compile the same program compile it once; in JAX_COMPILATION_CACHE_DIR if set."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Nano:
    folder = tmp_path_factory.mktemp("nano")
    experiment, weights = str(folder / "small.py"), str(folder / "small.safetensors")
    config = replace(load_experiment("swin_nano"), image_size=64, batch_size=4, num_workers=2)
    settings = {k: v for k, v in vars(config).items() if k != "workdir"}
    Path(experiment).write_text(
        f"from jaxparse.config import Config\nconfig = Config(**{settings!r})\n"
    )
    _, params, batch_stats = split_model(config)
    rng = np.random.default_rng(0)
    shapes = {k: v.shape for k, v in (flatten(params) | flatten(batch_stats)).items()}
    arrays = {name: noise(rng, name, shape) for name, shape in shapes.items()}
    save_weights(weights, arrays, config, source="noise")
    _, params, batch_stats = load_network(None, experiment, weights)
    params, batch_stats = jax.device_put((params, batch_stats), replicated(make_mesh()))
    network = partial(make_logits_step(config), params, batch_stats)
    return Nano(config, experiment, weights, params, batch_stats, network)
