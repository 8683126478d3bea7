"""The mean of a run's last weights, and the statistics of its batch norms."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxparse import average as average_module
from jaxparse.average import average, last_evaluations
from jaxparse.config import Config, save_config
from jaxparse.data.loaders import make_train_loader
from jaxparse.models import split_model
from jaxparse.models.layers import NORM_EPSILON, Block, ConvNormAct, DropPath
from jaxparse.models.segmentor import normalise
from jaxparse.training import averaging
from jaxparse.training.averaging import EVALUATIONS, kept_evaluations, mean_weights
from jaxparse.training.steps import losses
from jaxparse.training.validation import Validation
from jaxparse.weights.files import AVERAGE_WEIGHTS, flatten, read_weights, save_weights
from jaxparse.weights.find import load_network
from tests.conftest import Nano, noise
from tests.mini import config
from tests.refusal import refuses

STEPS = (2, 10, 6)


def arrays_of(nano: Nano, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    flat = flatten(nano.params) | flatten(nano.batch_stats)
    return {name: noise(rng, name, array.shape) for name, array in flat.items()}


@pytest.fixture(scope="module")
def run(nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the mini network on drawn faces that has kept the weights of three evaluations."""
    folder = tmp_path_factory.mktemp("run")
    save_config(nano.config, folder)
    for step in STEPS:
        path = folder / EVALUATIONS / f"{step}.safetensors"
        save_weights(path, arrays_of(nano, step), nano.config, f"step {step}")
    (folder / EVALUATIONS / ".8.123.safetensors").write_bytes(b"half-written")
    return folder


def test_mean_is_the_mean(nano: Nano, run: Path) -> None:
    paths = kept_evaluations(run)
    assert [int(path.stem) for path in paths] == sorted(STEPS)
    params, batch_stats = mean_weights(paths[1:], nano.config)
    first, second = arrays_of(nano, 6), arrays_of(nano, 10)
    mean = flatten(params) | flatten(batch_stats)
    assert mean.keys() == first.keys()
    for name, array in mean.items():
        expected = (first[name].astype(np.float64) + second[name]) / 2
        np.testing.assert_array_equal(array, expected.astype(np.float32))


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """3x3, padded by 1: [B, H, W, C], [3, 3, C, D] -> float64 [B, H, W, D]."""
    height, width = x.shape[1:3]
    x = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = ((i, j) for i in range(3) for j in range(3))
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in taps)


class Small(Block):
    """A constant, two convolutions with batch norm, a drop path that must not drop here."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.second = (ConvNormAct(size, 4, 3, rngs=rngs) for size in (3, 4))
        self.drop = DropPath(0.9)
        self.constant = nnx.BatchStat(jnp.full(3, 2.0))

    def forward(self, x: jax.Array) -> jax.Array:
        return self.second(self.drop(self.first(x * self.constant[...]), None))


def batch_norm(x: np.ndarray, norm: dict[str, np.ndarray]) -> np.ndarray:
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + NORM_EPSILON)
    return x * norm["scale"] + norm["bias"]


def test_statistics_are_those_that_numpy_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over the batches of each batch's mean and unbiased variance, in float64."""
    parts = nnx.split(Small(), nnx.Param, nnx.BatchStat)
    monkeypatch.setattr(averaging, "split_model", lambda _: parts)
    params, batch_stats = map(nnx.to_pure_dict, parts[1:])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0.2, 1, x.shape).astype(np.float32), params)
    batches = [{"image": rng.integers(0, 256, (2, 6, 5, 3)).astype(np.uint8)} for _ in range(3)]
    found = averaging.batch_statistics(config, params, batch_stats, batches)
    expected = {"first": ([], []), "second": ([], [])}
    for batch in batches:
        x = 2 * (batch["image"].astype(np.float64) - config.image_mean) / config.image_std
        for name, (means, variances) in expected.items():
            x = convolved(x, params[name]["conv"]["kernel"].astype(np.float64))
            means.append(x.mean((0, 1, 2)))
            variances.append(x.var((0, 1, 2), ddof=1))
            x = np.maximum(batch_norm(x, params[name]["bn"]), 0)
    for name, (means, variances) in expected.items():
        norm = found[name]["bn"]
        np.testing.assert_allclose(norm["mean"], np.mean(means, 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm["var"], np.mean(variances, 0), rtol=1e-4)
    assert (batch_stats["first"]["bn"]["var"] == 1).all()  # the caller's are as they were
    assert found["constant"].tolist() == batch_stats["constant"].tolist() == [2, 2, 2]


@pytest.mark.full
def test_statistics_are_those_that_training_moves_towards(nano: Nano) -> None:
    """A training step's new ones are 0.9 of the old and 0.1 of the batch's; nothing is dropped."""
    config = replace(nano.config, drop_path_rate=0.0)
    batch = next(make_train_loader(config))
    found = averaging.batch_statistics(config, nano.params, nano.batch_stats, [batch])
    graphdef, _, _ = split_model(config)
    image, key = normalise(batch["image"], config), jax.random.key(0)
    step = jax.jit(partial(losses, graphdef), static_argnums=5)
    _, (_, moved) = step(nano.params, nano.batch_stats, image, batch["label"], key, config)
    new, old, moved = map(flatten, (found, nano.batch_stats, moved))
    for name, array in new.items():
        expected = 0.9 * old[name] + 0.1 * array
        np.testing.assert_allclose(moved[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert len(new) > 20


def test_command_writes_a_network(
    nano: Nano, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def statistics(config: Config, params: dict, batch_stats: dict, batches: list) -> dict:
        assert config.workdir == str(run) and len(list(batches)) == 2
        return jax.tree.map(np.ones_like, batch_stats)

    monkeypatch.setattr(average_module, "batch_statistics", statistics)
    monkeypatch.setattr(sys, "argv", ["average", str(run), "--last", "2", "--batches", "2"])
    average_module.main()
    path = run / AVERAGE_WEIGHTS
    assert capsys.readouterr().out == f"mean of 2 evaluations: {path}\n"
    config, params, batch_stats = load_network(path)
    assert (config.backbone, config.image_size) == (nano.config.backbone, nano.config.image_size)
    expected, _ = mean_weights(kept_evaluations(run)[1:], nano.config)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all((array == 1).all() for array in jax.tree.leaves(batch_stats))
    assert "steps 6, 10" in read_weights(path)[1]["source"]


def test_what_cannot_be_averaged_is_refused(run: Path, nano: Nano, tmp_path: Path) -> None:
    with refuses("--batches is 0"):
        average(run, batches=0)
    with refuses("--last is 0"):
        last_evaluations(run, 0)
    with refuses(run, "3 evaluations", "expected 4", "--keep-evaluations"):
        last_evaluations(run, 4)
    save_config(nano.config, tmp_path)
    with refuses(tmp_path, "0 evaluations", "at least 1", "--keep-evaluations"):
        average(tmp_path)


class Log:
    is_main = True


@pytest.mark.parametrize("count", [0, 2])
def test_run_keeps_the_newest_evaluations(tmp_path: Path, nano: Nano, count: int) -> None:
    config = replace(nano.config, keep_evaluations=count, workdir=str(tmp_path))
    validation = Validation.__new__(Validation)
    validation.config, validation.log = config, Log()
    weights = {"params": nano.params, "batch_stats": nano.batch_stats}
    for step in (3, 20, 100):
        validation.keep(weights, step)
    assert [path.stem for path in kept_evaluations(tmp_path)] == ["20", "100"][:count]
    if count:
        arrays, metadata = read_weights(kept_evaluations(tmp_path)[1])
        assert metadata["source"] == f"step 100 of {tmp_path}"
        for name, array in (flatten(nano.params) | flatten(nano.batch_stats)).items():
            np.testing.assert_array_equal(arrays[name], array)
