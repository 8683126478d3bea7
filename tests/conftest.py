from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxparse import train
from jaxparse.config import Config, load_experiment
from jaxparse.devices import make_mesh, replicated
from jaxparse.models import split_model
from jaxparse.parsing.network import make_logits_step
from jaxparse.training import steps, validation
from jaxparse.weights.files import flatten, load_network, save_weights


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


# Begun first, as they take longest: else one core would wait for the other at the end.
LONGEST = ("test_distributed", "test_train", "test_training_reference", "test_faults")
LONGEST += ("test_precision", "test_reference")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=rank)


@cache
def program(name: str, config: Config) -> Callable[..., Any]:
    return getattr(steps, name)(config)


@pytest.fixture(scope="session", autouse=True)
def shared_programs() -> Iterator[None]:
    """Runs that differ in their folders alone share programs: tracing one takes seconds."""

    def share(name: str) -> Callable[[Config], Callable[..., Any]]:
        return lambda config: program(name, replace(config, workdir="", eval_every=1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_train_step", share("make_train_step"))
        for name in ("make_eval_step", "make_logits_step"):
            patch.setattr(validation, name, share(name))
        yield


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
