import json
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxparse.config import Config
from jaxparse.training.losses import hardest, log_sum_exp, near_boundary, total_loss
from tests import reference

CE = Config()
LOVASZ = Config(cross_entropy_weight=0, lovasz_weight=1)
DICE = Config(cross_entropy_weight=0, dice_weight=1)
FOCAL = Config(cross_entropy_weight=0, focal_weight=1)
OHEM = replace(CE, ohem_min_kept=100, ohem_threshold=0.7)
KEPT = replace(OHEM, cross_entropy_divisor="kept")

# mmsegmentation's (`dice_segface`: SegFace's; `ohem_zllrunning`: zllrunning's) values and gradients
# in float64. Each 97th number of a gradient is stored; the logits are drawn as there.
EXPECTED = json.loads((reference.FOLDER / "losses.json").read_text())
ARRAYS = np.load(reference.FOLDER / "losses.npz")
WEIGHTS = tuple(EXPECTED["class_weights"])
WEIGHTED = replace(CE, class_weights=WEIGHTS)
REFERENCES = {
    "ce": CE,
    "ce_avg_non_ignore": replace(CE, cross_entropy_divisor="valid"),
    "ce_weighted_0x": WEIGHTED,
    "ce_weighted_0x_avg_non_ignore": replace(WEIGHTED, cross_entropy_divisor="valid"),
    "ce_weighted_1x": replace(WEIGHTED, cross_entropy_divisor="weights"),
    "ce_weighted_1x_no_ignored": replace(WEIGHTED, cross_entropy_divisor="weights"),
    "lovasz": LOVASZ,
    "lovasz_sure": LOVASZ,
    "lovasz_per_image": replace(LOVASZ, lovasz_per_picture=True),
    "winner_1_to_2": replace(WEIGHTED, lovasz_weight=2),
    "dice_softmax": DICE,
    "dice_segface": replace(DICE, dice_per_class=True),
    "focal": FOCAL,
    "ohem": OHEM,
    "ohem_noise": OHEM,
    "ohem_min_kept": replace(OHEM, ohem_threshold=0.05),
    "ohem_no_thresh": replace(OHEM, ohem_threshold=0),
    "ohem_avg_non_ignore": replace(OHEM, cross_entropy_divisor="valid"),
    # Of two pictures together at least 100, and at least 300.
    "ohem_zllrunning": replace(KEPT, ohem_min_kept=50),
    "ohem_zllrunning_min_kept": replace(KEPT, ohem_min_kept=150, ohem_threshold=0.05),
}
SURE = ("lovasz_sure", "ohem", "ohem_min_kept", "ohem_no_thresh", "ohem_avg_non_ignore")
SURE += ("ohem_zllrunning", "ohem_zllrunning_min_kept")
WITHOUT_IGNORED = ("ce_weighted_1x_no_ignored", "dice_segface")
# Every term and every choice.
CHOICES = {
    "default": CE,
    "first": replace(
        OHEM,
        cross_entropy_divisor="weights",
        class_weights=WEIGHTS,
        label_smoothing=0.1,
        boundary_weight=2,
        lovasz_weight=1,
        dice_weight=1,
        focal_weight=1,
    ),
    "second": replace(
        CE,
        cross_entropy_divisor="valid",
        lovasz_weight=1,
        lovasz_per_picture=True,
        lovasz_stride=2,
        dice_weight=1,
        dice_per_class=True,
    ),
}


def class_first(logits: Array, label: Array, config: Config) -> Array:
    """The loss of logits [B, C, H, W], as mmsegmentation has them."""
    return total_loss(jnp.moveaxis(logits, 1, -1), label, config)


def loss(logits: Array, label: Array, config: Config) -> float:
    return float(reference.jit(partial(class_first, config=config))(logits, label))


def value_and_gradient(logits: Array, label: Array, config: Config) -> tuple[float, np.ndarray]:
    function = jax.value_and_grad(lambda logits: class_first(logits, label, config))
    value, grad = reference.jit(function)(logits)
    return float(value), np.asarray(grad)


def reference_inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    logits, label = np.random.default_rng(11).standard_normal((2, 19, 24, 20)) * 3, ARRAYS["labels"]
    if name in SURE:
        true = np.arange(19)[:, None, None] == label[:, None]
        logits = np.where(true & ARRAYS["sure"][:, None], logits + 9, logits)
    return logits, np.where(label == 255, 0, label) if name in WITHOUT_IGNORED else label


@pytest.mark.parametrize("name", REFERENCES)
def test_values_and_gradients_of_the_reference(name: str) -> None:
    """mmsegmentation adds 1.2e-7 to the count of pixels."""
    with reference.precision("float64"):
        logits, label = map(jnp.asarray, reference_inputs(name))
        value, grad = value_and_gradient(logits, label, REFERENCES[name])
    expected, sample = EXPECTED["losses"][name], ARRAYS[f"grad/{name}"]
    assert value == pytest.approx(expected["value"], rel=1e-9)
    assert np.linalg.norm(grad) == pytest.approx(expected["grad_norm"], rel=1e-9)
    np.testing.assert_allclose(grad.ravel()[::97], sample, atol=1e-6 * abs(sample).max())


@pytest.mark.parametrize("name", ["winner_1_to_2", "ohem"])
def test_float32_is_close_to_float64(name: str) -> None:
    logits, label = reference_inputs(name)
    args = (jnp.asarray(logits, jnp.float32), jnp.asarray(label), REFERENCES[name])
    value, grad = value_and_gradient(*args)
    sample = ARRAYS[f"grad/{name}"]
    assert value == pytest.approx(EXPECTED["losses"][name]["value"], rel=1e-6)
    np.testing.assert_allclose(grad.ravel()[::97], sample, atol=2e-6 * abs(sample).max())


@pytest.mark.parametrize("config", [*CHOICES.values(), KEPT], ids=[*CHOICES, "kept"])
def test_all_ignored_is_zero_with_zero_gradient(config: Config) -> None:
    logits, label = jnp.ones((1, 19, 3, 5)).at[:, 3].add(2), jnp.full((1, 3, 5), 255, jnp.uint8)
    value, grad = value_and_gradient(logits, label, config)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("name", CHOICES)
def test_certain_logits_have_a_finite_gradient(name: str) -> None:
    """Probabilities that are exactly 0 and 1, right and wrong."""
    label = jnp.asarray(np.resize([0, 0, 1, 255, 18], (1, 4, 5)), jnp.uint8)
    guess = jnp.asarray(np.resize([0, 1, 1], (1, 4, 5)))
    logits = 200.0 * (jnp.arange(19)[:, None, None] == guess[:, None])
    value, grad = value_and_gradient(logits, label, CHOICES[name])
    assert 0 < value < 200
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[:, :, label[0] == 255], 0)


def test_what_has_no_weight_is_not_computed() -> None:
    def operations(config: Config) -> str:
        logits, label = jnp.zeros((1, 19, 4, 4)), jnp.zeros((1, 4, 4), jnp.uint8)
        return str(jax.make_jaxpr(lambda x: class_first(x, label, config))(logits))

    unused = ("sort", "logistic", "reduce_window", "integer_pow", "gather")
    assert not [name for name in unused if name in operations(CE)]
    everything = replace(WEIGHTED, lovasz_weight=1, dice_weight=1, focal_weight=1)
    everything = replace(everything, boundary_weight=1)
    assert [name for name in unused if name in operations(everything)] == list(unused)


def test_terms_are_summed_by_their_weights() -> None:
    logits, label = (jnp.asarray(x) for x in reference_inputs("ce"))
    parts = {"ce": 0.5, "lovasz": 2, "dice_softmax": 3, "focal": 4}
    names = ("cross_entropy_weight", "lovasz_weight", "dice_weight", "focal_weight")
    config = replace(CE, **dict(zip(names, parts.values(), strict=True)))
    expected = sum(weight * EXPECTED["losses"][name]["value"] for name, weight in parts.items())
    assert loss(logits, label, config) == pytest.approx(expected, rel=1e-6)


def cross_entropy(logits: Array, label: Any, **changes: Any) -> float:  # noqa: ANN401
    return loss(logits, jnp.asarray(label, jnp.uint8), replace(CE, **changes))


def test_a_stride_takes_lovasz_on_fewer_rows_and_columns() -> None:
    logits, label = (jnp.asarray(x) for x in reference_inputs("lovasz"))
    expected = loss(logits[:, :, ::3, ::3], label[:, ::3, ::3], LOVASZ)
    assert loss(logits, label, replace(LOVASZ, lovasz_stride=3)) == pytest.approx(expected)


def row(*pixels: list[float]) -> Array:
    """Logits [1, C, 1, W] of the classes' probabilities in each pixel."""
    return jnp.log(jnp.array(pixels)).T[None, :, None]


def test_by_hand_with_an_ignored_pixel() -> None:
    """Ignored pixels add nothing to the sum and still count in the mean."""
    logits = row([0.5, 0.25, 0.25], [0.1, 0.1, 0.8])
    both = np.log(2) - np.log(0.8)
    assert cross_entropy(logits, [[[0, 2]]]) == pytest.approx(both / 2)
    assert cross_entropy(logits, [[[0, 255]]]) == pytest.approx(np.log(2) / 2)
    valid = cross_entropy(logits, [[[0, 255]]], cross_entropy_divisor="valid")
    assert valid == pytest.approx(np.log(2))


def test_class_weights_by_hand() -> None:
    logits = row([0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2])
    weights = (2.0, *(1.0,) * 17, 5.0)
    weighted = 2 * np.log(2) - np.log(0.1)
    expected = {"pixels": weighted / 3, "valid": weighted / 2, "weights": weighted / 3}
    for divisor, value in expected.items():
        changes = {"class_weights": weights, "cross_entropy_divisor": divisor}
        assert cross_entropy(logits, [[[0, 1, 255]]], **changes) == pytest.approx(value)


def test_label_smoothing_by_hand() -> None:
    logits, smooth = row([0.5, 0.25, 0.25]), 0.3
    expected = (0.7 + 0.1) * np.log(2) + 0.1 * 2 * np.log(4)
    assert cross_entropy(logits, [[[0]]], label_smoothing=smooth) == pytest.approx(expected)
    assert cross_entropy(logits, [[[255]]], label_smoothing=smooth) == 0


def test_label_smoothing_with_class_weights_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="compares with torch")
    logits, label = reference_inputs("ce")
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(label.astype(np.int64)),
        torch.tensor(WEIGHTS, dtype=torch.float64),
        ignore_index=255,
        label_smoothing=0.1,
    )
    with reference.precision("float64"):
        config = replace(WEIGHTED, label_smoothing=0.1, cross_entropy_divisor="weights")
        ours = loss(jnp.asarray(logits), jnp.asarray(label), config)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-12)


def test_boundary_by_hand() -> None:
    """Ignored pixels are near nothing, and make no boundary."""
    rows = [[0, 0, 0, 0, 7, 7], [0, 0, 0, 0, 255, 7], [255, 1, 0, 0, 0, 0]]
    label = jnp.array([rows], jnp.uint8)
    expected = {
        1: [[0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]],
        2: [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 1, 1]],
    }
    for width, near in expected.items():
        np.testing.assert_array_equal(near_boundary(label, width)[0], np.array(near, bool))


def test_pixels_near_a_boundary_count_more() -> None:
    logits = row([0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [0.9, 0.1])
    label, weights = [[[0, 0, 1, 255]]], {"boundary_weight": 2.0, "boundary_width": 1}
    total = np.log(2) + 3 * np.log(2) - 3 * np.log(0.75)
    assert cross_entropy(logits, label, **weights) == pytest.approx(total / 4)
    mean = cross_entropy(logits, label, **weights, cross_entropy_divisor="weights")
    assert mean == pytest.approx(total / 7)


@pytest.mark.parametrize(
    "min_kept, threshold, kept",
    [
        (1, 0.5, [0, 0, 1, 1, 0]),
        (1, 0.0, [0, 0, 0, 1, 0]),
        (3, 0.2, [0, 1, 1, 1, 0]),
        (4, 0.2, [0, 1, 1, 1, 0]),  # mmsegmentation keeps what is below the last, never the last
        (1, 0.95, [1, 1, 1, 1, 0]),
    ],
)
def test_ohem_by_hand(min_kept: int, threshold: float, kept: list[int]) -> None:
    losses = -jnp.log(jnp.array([[[0.9, 0.6, 0.3, 0.1, 1.0]]]))
    label = jnp.array([[[0, 1, 2, 3, 255]]], jnp.uint8)
    config = replace(CE, ohem_min_kept=min_kept, ohem_threshold=threshold)
    np.testing.assert_array_equal(hardest(losses, label, config)[0, 0], np.array(kept, bool))


def test_focal_by_hand() -> None:
    """Of two yes-or-no questions; the ignored pixel counts."""
    logits = jnp.array([[[[0.0, 3.0]], [[np.log(3.0), 1.0]]]])
    value = loss(logits, jnp.array([[[0, 255]]], jnp.uint8), FOCAL)
    yes, no = 0.5 * 0.5**2 * np.log(2), 0.5 * 0.75**2 * np.log(4)
    assert value == pytest.approx((yes + no) / 4)


def test_large_logits_do_not_overflow() -> None:
    logits = jnp.array([1e4, -1e4, 0.0]).reshape(1, 3, 1, 1)
    assert float(log_sum_exp(logits)[0, 0, 0]) == 1e4
    assert cross_entropy(logits, [[[1]]]) == 2e4


def test_gradient_is_that_of_the_plain_formulation() -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 19, 5, 7)), jnp.float32)
    label = rng.integers(0, 19, (2, 5, 7)).astype(np.uint8)
    label[0, :2] = 255

    def plain(logits: Array) -> Array:
        logs = jax.nn.log_softmax(logits, axis=1)
        chosen = jnp.take_along_axis(logs, jnp.minimum(label, 18)[:, None].astype(int), axis=1)
        return jnp.where(label == 255, 0, -chosen[:, 0]).mean()

    ours = value_and_gradient(logits, jnp.asarray(label), CE)
    theirs = reference.jit(jax.value_and_grad(plain))(logits)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-8)
