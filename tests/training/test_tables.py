"""Training and evaluation with tables of 2 to 150 classes, against plain formulations."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from jaxparse.classes import CELEBAMASK, load_classes, parse_classes
from jaxparse.config import Config
from jaxparse.devices import PyTree, make_mesh
from jaxparse.models import split_model
from jaxparse.models.ops.resize import resize_logits
from jaxparse.models.segmentor import normalise
from jaxparse.parsing.network import highest_class
from jaxparse.scoring.counts import count
from jaxparse.scoring.scores import Scores
from jaxparse.training import steps
from jaxparse.training.metrics import confusion_matrix
from jaxparse.training.steps import init_state, start_state
from jaxparse.weights.conversion import start_line
from jaxparse.weights.files import flatten, save_weights
from tests import reference
from tests.runs import CONFIG
from tests.tables import COUNTS, numbered

SLOW = pytest.mark.full


@pytest.fixture
def float64() -> Iterator[None]:
    with reference.precision("float64"):
        yield


def small(count: int) -> Config:
    return replace(
        CONFIG,
        classes=numbered(count),
        backbone="resnet_slim",
        head="psanet",
        head_channels=8,
        auxiliary_channels=0,
        image_size=32,
        dropout_rate=0.0,
    )


def plain_loss(logits: Array, label: Array, weights: list[float]) -> Array:
    """Weighted cross-entropy, pixel by pixel as the textbook has it, over all pixels."""
    logs = jnp.log(jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True))
    truth = jax.nn.one_hot(label, logits.shape[-1])  # all 0 where the label is 255
    return -(truth * logs * jnp.array(weights)).sum() / label.size


@pytest.mark.parametrize("count", [2, *(pytest.param(n, marks=SLOW) for n in COUNTS[1:])])
def test_a_step_is_that_of_the_plain_formulation(count: int, float64: None) -> None:
    config = small(count)
    rng = np.random.default_rng(count)
    state = init_state(config, make_mesh())
    trees = state.params, state.batch_stats
    params, batch_stats = jax.tree.map(lambda x: x.astype(jnp.float64), trees)
    image = normalise(rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8), config).astype(float)
    label = rng.integers(0, count, (2, 32, 32)).astype(np.uint8)
    label[:, :4] = 255
    graphdef, *_ = split_model(config)

    def ours(params: PyTree) -> Array:
        args = graphdef, params, batch_stats, image, label, jax.random.key(0), config
        return steps.losses(*args)[0]

    def plain(params: PyTree) -> Array:
        model = nnx.merge(graphdef, params, batch_stats)
        mode = {"deterministic": False, "use_running_average": False, "remat": False}
        logits = nnx.view(model, raise_if_not_found=False, **mode)(image).decode
        full = resize_logits(logits, (32, 32)).transpose(0, 2, 3, 1)
        return plain_loss(full, label, [1.0] * (count - 1) + [3.0])

    loss, gradient = jax.jit(jax.value_and_grad(ours))(params)
    wanted, wanted_gradient = jax.jit(jax.value_and_grad(plain))(params)
    np.testing.assert_allclose(loss, wanted, rtol=1e-9)
    largest = max(np.abs(array).max() for array in flatten(wanted_gradient).values())
    for name, array in flatten(gradient).items():
        expected = np.asarray(flatten(wanted_gradient)[name])
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-8 * largest)


@pytest.mark.parametrize("classes", [*COUNTS, 255])
def test_metrics_are_those_counted_by_hand(classes: int) -> None:
    rng = np.random.default_rng(classes)
    label, prediction = rng.integers(0, classes, (2, 9, 11)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    wanted = np.zeros((classes, classes), int)
    for row, column in zip(label.ravel(), prediction.ravel(), strict=True):
        if row != 255:
            wanted[row, column] += 1
    np.testing.assert_array_equal(confusion_matrix(label, prediction, classes), wanted)
    counts = count(label, prediction, classes)
    np.testing.assert_array_equal(counts.confusion, wanted)
    # All pixels lie within two of the border or of another class.
    np.testing.assert_array_equal(counts.boundary[1], wanted.sum(1))
    names = numbered(classes).names
    scores = Scores.of(*counts, names)
    unions = wanted.sum(0) + wanted.sum(1) - np.diag(wanted)
    ious = [
        hit / union if union else np.nan for hit, union in zip(np.diag(wanted), unions, strict=True)
    ]
    np.testing.assert_allclose(scores.iou, ious)
    assert scores.mean_iou == pytest.approx(np.nanmean(ious))


@pytest.mark.parametrize("classes", COUNTS)
def test_the_highest_class_is_the_first_of_equal_ones(classes: int) -> None:
    logits = np.random.default_rng(0).integers(0, 4, (2, classes, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(highest_class(jnp.asarray(logits)), logits.argmax(1))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_network_of_other_classes_gives_those_of_the_same_names(
    fresh: bool, tmp_path: Path
) -> None:
    """Hair, and nothing else, from celebamask's classifiers; the backbone from the file."""
    table = {"names": ["other", "hair"], "from": {"celebamask": {"*": "other"}}}
    hair = parse_classes(table, "hair", "hair.json")
    state = init_state(CONFIG, make_mesh())
    before = flatten(state.params) | flatten(state.batch_stats)
    arrays = {name: np.full(array.shape, 0.5, "f4") for name, array in before.items()}
    for name in arrays:
        if "conv_seg" in name:
            arrays[name] = np.broadcast_to(np.arange(19, dtype="f4"), arrays[name].shape).copy()
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays, CONFIG, "a test")
    config = replace(CONFIG, classes=hair, fresh_classifier=fresh)
    random = flatten(init_state(config, make_mesh()).params)
    started = flatten(start_state(config, make_mesh(), path).params)
    for name, array in started.items():
        if "conv_seg" not in name:
            np.testing.assert_array_equal(array, arrays[name])
            continue
        np.testing.assert_array_equal(array[..., 0], random[name][..., 0])
        np.testing.assert_array_equal(array[..., 1], random[name][..., 1] if fresh else 13)
    line = start_line(path, config)
    taken = "none" if fresh else "hair"
    assert f"from {path} {taken};" in line and "initialisation other" in line
    assert start_line(path, replace(CONFIG, classes=load_classes("celebamask"))) is None
    assert CELEBAMASK.index("hair") == 13
