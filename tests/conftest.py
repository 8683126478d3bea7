import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxparse.config import Config
from jaxparse.devices import make_mesh, replicated
from jaxparse.models import split_model
from jaxparse.parsing.network import make_logits_step
from jaxparse.weights.files import flatten, save_weights
from jaxparse.weights.find import load_network
from tests import mini, runs

# Tests compile far more than they compute. LLVM's optimisations take half of a compilation, and the
# newer of XLA's two ways to emit fused loops two thirds of the rest (jax 0.12 has no other). Set
# before JAX starts its backend; processes that tests start inherit it.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if jax.__version_info__ < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))


class Nano(NamedTuple):
    """The mini network for 64×64 with random weights that give varied masks."""

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
def compilation_cache(request: pytest.FixtureRequest) -> None:
    """Compiled programs are kept in pytest's cache folder, which all workers share."""
    # Without a cache where pytest has none (-p no:cacheprovider).
    if not jax.config.jax_compilation_cache_dir and hasattr(request.config, "cache"):
        jax.config.update("jax_compilation_cache_dir", str(request.config.cache.mkdir("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


# Begun first, or one core would wait for the other at the end.
LONGEST = ("test_networks", "test_train_faults", "test_precision", "test_devices", "test_train")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Nano:
    folder = tmp_path_factory.mktemp("nano")
    weights = str(folder / "small.safetensors")
    config = replace(mini.config, workdir="")
    _, params, batch_stats = split_model(config)
    rng = np.random.default_rng(0)
    shapes = {k: v.shape for k, v in (flatten(params) | flatten(batch_stats)).items()}
    arrays = {name: noise(rng, name, shape) for name, shape in shapes.items()}
    save_weights(weights, arrays, config, origin="a test")
    _, params, batch_stats = load_network(weights)
    params, batch_stats = jax.device_put((params, batch_stats), replicated(make_mesh()))
    network = partial(make_logits_step(config), params, batch_stats)
    return Nano(config, str(mini.__file__), weights, params, batch_stats, network)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, str]:
    """An uninterrupted run, evaluated and saved after steps 3 and 6, and what it printed."""
    workdir = tmp_path_factory.mktemp("finished") / "a run[/v2]"  # to quote, and no markup
    config = replace(runs.CONFIG, eval_every=3, workdir=str(workdir))
    code, screen = runs.run(config)
    assert code == 0
    return config, screen


@pytest.fixture
def whole(finished: tuple[Config, str]) -> Config:
    """The config of the `finished` run."""
    return finished[0]
