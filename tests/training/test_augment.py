"""Augmentation against Pillow, colorsys and NumPy, and by hand."""

import colorsys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from PIL import Image

from jaxparse.classes import CELEBAMASK, IGNORE_LABEL
from jaxparse.config import Config, experiment_files, load_experiment
from jaxparse.devices import Batch
from jaxparse.training import augment as augment_module
from jaxparse.training import steps
from jaxparse.training.augment import (
    Draw,
    augment,
    augment_picture,
    augments,
    draw,
    picture_keys,
    warp,
)
from jaxparse.training.optim import make_optimizer
from jaxparse.training.steps import (
    StepMetrics,
    TrainState,
    accumulated_gradients,
    make_train_step,
)
from tests import mini
from tests.masks import blobs
from tests.refusal import refuses

ALL = Config(
    mirror_probability=0.5,
    rotation_probability=0.4,
    scale_min=0.8,
    scale_max=1.25,
    translation=0.1,
    brightness=16.0,
    contrast=0.25,
    saturation=0.2,
    hue=18.0,
    grey_probability=0.1,
    blur_probability=0.3,
    blur_sigma=1.5,
    cutout_probability=0.7,
    cutout_size=0.4,
)
# What a picture is given where nothing is drawn.
NOTHING = Draw(
    mirrored=jnp.array(False),
    angle=jnp.array(0.0),
    scale=jnp.array(1.0),
    shift=jnp.zeros(2),
    brightness=jnp.array(0.0),
    contrast=jnp.array(1.0),
    contrast_first=jnp.array(False),
    saturation=jnp.array(1.0),
    hue=jnp.array(0.0),
    grey=jnp.array(False),
    sigma=jnp.array(0.0),
    cut=jnp.array(False),
    hole=jnp.full(2, 0.5),
    composed=jnp.array(False),
)
SIZE = (25, 32)
Change = float | bool | tuple[float, float]
# One compiled function for all the warps of a size.
compiled_warp = jax.jit(partial(warp, pairs=CELEBAMASK.pairs))
compiled_colours = jax.jit(augment_module.distort_colours, static_argnums=2)


def changed(**changes: Change) -> Draw:
    return NOTHING._replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def picture(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Noise, which no two pixels share, and a mask of rectangles, some ignored."""
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return image, blobs(seed, size)[0]


def warped(
    image: np.ndarray, label: np.ndarray, **changes: Change
) -> tuple[np.ndarray, np.ndarray]:
    image, label = compiled_warp(image, label, changed(**changes))
    return np.asarray(image), np.asarray(label)


def affine(
    height: int, width: int, mirrored: bool, angle: float, scale: float, shift: tuple[float, float]
) -> tuple[float, ...]:
    """Pillow's: the rows of [2, 3], (x, y, 1) in the new picture -> (x, y) in the old, y down."""
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    turn = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    move = np.array([[1, 0, width * shift[1]], [0, 1, height * shift[0]], [0, 0, 1]])
    forward = turn @ np.diag([scale, scale, 1]) @ np.diag([-1 if mirrored else 1, 1, 1])
    forward = move @ np.linalg.inv(to_centre) @ forward @ to_centre
    return tuple(np.linalg.inv(forward)[:2].ravel().tolist())


CASES = [
    {"mirrored": False, "angle": 0.3, "scale": 1.0, "shift": (0.0, 0.0)},
    {"mirrored": True, "angle": -0.4, "scale": 1.2, "shift": (0.05, -0.1)},
    {"mirrored": False, "angle": 1.0, "scale": 0.7, "shift": (-0.2, 0.15)},
]


@pytest.mark.parametrize("case", CASES)
def test_a_warp_is_pillows(case: dict[str, Change]) -> None:
    image, label = picture(2)
    ours, mask = warped(image, label, **case)
    how = ((SIZE[1], SIZE[0]), Image.Transform.AFFINE, affine(*SIZE, **case))
    for channel in range(3):  # float32, since Pillow rounds 8 bits down
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        theirs = plane.transform(*how, Image.Resampling.BILINEAR)
        np.testing.assert_allclose(ours[..., channel], np.asarray(theirs), atol=1e-2)
    fill = {"fillcolor": IGNORE_LABEL}
    theirs = np.asarray(Image.fromarray(label).transform(*how, Image.Resampling.NEAREST, **fill))
    if case["mirrored"]:
        theirs = np.append(CELEBAMASK.mirrored, range(len(CELEBAMASK), 256))[theirs]
    np.testing.assert_array_equal(mask, theirs)


def test_whole_pixels_and_quarter_turns_by_hand() -> None:
    image, label = picture(3, (8, 8))
    ours, mask = warped(image, label, shift=(2 / 8, -1 / 8))  # down 2, left 1
    np.testing.assert_array_equal(ours[2:, :-1], image[:-2, 1:])
    np.testing.assert_array_equal(mask[2:, :-1], label[:-2, 1:])
    assert not ours[:2].any() and not ours[:, -1].any()
    assert (mask[:2] == IGNORE_LABEL).all() and (mask[:, -1] == IGNORE_LABEL).all()

    ours, mask = warped(image, label, angle=np.pi / 2)  # counter-clockwise
    np.testing.assert_allclose(ours, np.rot90(image), atol=1e-3)
    np.testing.assert_array_equal(mask, np.rot90(label))

    ours, mask = warped(image, label, scale=2.0)
    np.testing.assert_array_equal(mask, label[2:6, 2:6].repeat(2, 0).repeat(2, 1))
    middle = 0.75 * image[2, 2] + 0.25 * image[1, 2]
    np.testing.assert_array_equal(
        ours[0, 0], 0.75 * middle + 0.25 * (0.75 * image[2, 1] + 0.25 * image[1, 1].astype(float))
    )


def test_mirroring_exchanges_left_and_right_and_twice_is_the_identity() -> None:
    image, _ = picture(4, (5, 25))
    label = np.arange(25, dtype=np.uint8) * np.ones((5, 1), np.uint8)
    label[label >= len(CELEBAMASK)] = IGNORE_LABEL
    once, mask = warped(image, label, mirrored=True)
    np.testing.assert_array_equal(once, image[:, ::-1])
    assert mask[0, ::-1].tolist() == [0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19)] + [255] * 6
    twice, mask = warped(once.astype(np.uint8), mask, mirrored=True)
    np.testing.assert_array_equal(twice, image)
    np.testing.assert_array_equal(mask, label)


def test_labels_are_never_interpolated() -> None:
    label = np.where(np.add.outer(np.arange(32), np.arange(32)) % 2, 4, 18).astype(np.uint8)
    batch = {
        "image": jnp.zeros((64, 32, 32, 3), jnp.uint8),
        "label": jnp.tile(label, (64, 1, 1)),
        "key": picture_keys(0, 0, 64),
    }
    masks = np.asarray(compiled_augment(ALL)(batch)["label"])
    assert np.unique(masks).tolist() == [4, 5, 18, IGNORE_LABEL]


@cache
def compiled_augment(config: Config) -> Callable[[Batch], Batch]:
    return jax.jit(partial(augment, config=config))


COLOURS = Config(brightness=1.0, contrast=0.5, saturation=0.5, hue=30.0)


def distorted(image: np.ndarray, **changes: Change) -> np.ndarray:
    planes = [jnp.asarray(image[..., index], jnp.float32) for index in range(3)]
    return np.stack(compiled_colours(planes, changed(**changes), COLOURS), -1)


def test_brightness_and_contrast_clip_and_contrast_comes_first_or_last() -> None:
    colours = np.array([[10, 100, 250]], float)
    np.testing.assert_array_equal(distorted(colours, brightness=16.0), [[26, 116, 255]])
    np.testing.assert_array_equal(distorted(colours, brightness=-16.0), [[0, 84, 234]])
    np.testing.assert_array_equal(distorted(colours, contrast=1.25), [[12.5, 125, 255]])
    # Saturation 0 leaves the value: clipped to 255 before contrast, or 200 before it.
    both = {"contrast": 0.8, "brightness": 10.0, "saturation": 0.0}
    np.testing.assert_allclose(distorted(colours, **both), [[204] * 3], rtol=1e-6)
    enlarged = {"contrast": 2.0, "saturation": 0.5}
    last = distorted(colours / 2, **enlarged)
    first = distorted(colours / 2, contrast_first=True, **enlarged)
    np.testing.assert_allclose(last, [[130, 175, 250]], rtol=1e-6)
    np.testing.assert_allclose(first, [[130, 175, 250]], rtol=1e-6)
    last = distorted(colours, **enlarged)
    first = distorted(colours, contrast_first=True, **enlarged)
    np.testing.assert_allclose(last, [[255, 255, 255]], rtol=1e-6)
    np.testing.assert_allclose(first, [[137.5, 227.5, 255]], rtol=1e-6)


@pytest.mark.parametrize("factor, degrees", [(0.75, 0), (1.25, 0), (1, 18), (1, -100), (1.5, 180)])
def test_saturation_and_hue_are_those_of_hsv(factor: float, degrees: float) -> None:
    colours = np.random.default_rng(5).integers(0, 256, (200, 3)).astype(float)
    colours[:8] = [[0] * 3, [255] * 3, [90] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255]] + [
        [200, 200, 10],
        [10, 200, 200],
    ]
    expected = []
    for colour in colours / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        saturation = min(factor * saturation, 1)
        expected.append(colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value))
    ours = distorted(colours, saturation=factor, hue=float(degrees))
    np.testing.assert_allclose(ours, 255 * np.array(expected), atol=1e-3)


def ours_alone(
    config: Config, image: np.ndarray, label: np.ndarray, **changes: Change
) -> tuple[np.ndarray, np.ndarray]:
    """One picture with these draws and the rest of `config` off."""
    step = jax.jit(augment_picture, static_argnums=3)
    return tuple(map(np.asarray, step(image, label, changed(**changes), config)))


def test_grey_is_pillows() -> None:
    image, label = picture(6)
    config = Config(grey_probability=0.5)
    ours, _ = ours_alone(config, image, label, grey=True)
    theirs = np.asarray(Image.fromarray(image).convert("L"), float)
    np.testing.assert_allclose(ours, np.stack([theirs] * 3, -1), atol=0.51)
    ours, _ = ours_alone(config, image, label)
    np.testing.assert_array_equal(ours, image)


def test_blur_is_a_gaussian_reflected_at_the_border() -> None:
    image, label = picture(7)
    config = Config(blur_probability=0.5, blur_sigma=1.5)
    ours, mask = ours_alone(config, image, label, sigma=0.9)
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 0.9**2))
    expected = np.pad(image.astype(float), ((5, 5), (5, 5), (0, 0)), mode="reflect")
    for axis in range(2):
        convolve = partial(np.convolve, weights / weights.sum(), mode="valid")
        expected = np.apply_along_axis(convolve, axis, expected)
    np.testing.assert_allclose(ours, expected, atol=1e-3)
    np.testing.assert_array_equal(mask, label)
    np.testing.assert_array_equal(ours_alone(config, image, label)[0], image)


@pytest.mark.parametrize("labels", ["ignore", "keep"])
def test_cutout_is_a_black_square_that_the_border_cuts_off(labels: str) -> None:
    image, label = np.full((8, 8, 3), 7, np.uint8), np.full((8, 8), 3, np.uint8)
    config = Config(cutout_probability=0.5, cutout_size=0.5, cutout_labels=labels)
    ours, mask = ours_alone(config, image, label, cut=True, hole=(0.0, 0.5))
    hole = np.zeros((8, 8), bool)
    hole[:2, 2:6] = True
    np.testing.assert_array_equal(ours, np.where(hole[..., None], 0, image))
    np.testing.assert_array_equal(mask, np.where(hole & (labels == "ignore"), IGNORE_LABEL, 3))
    ours, mask = ours_alone(config, image, label)
    assert (ours == 7).all() and (mask == 3).all()


@pytest.fixture(scope="module")
def draws() -> Draw:
    """8192 draws of `ALL`."""
    many = jax.jit(lambda: jax.vmap(partial(draw, config=ALL))(picture_keys(3, 5, 8192)))
    return jax.tree.map(np.asarray, many())


def test_things_happen_as_often_as_stated(draws: Draw) -> None:
    happened = {
        "mirror": (draws.mirrored, 0.5),
        "rotation": (draws.angle != 0, 0.4),
        "brightness": (draws.brightness != 0, 0.5),
        "contrast": (draws.contrast != 1, 0.5),
        "contrast first": (draws.contrast_first, 0.5),
        "saturation": (draws.saturation != 1, 0.5),
        "hue": (draws.hue != 0, 0.5),
        "grey": (draws.grey, 0.1),
        "blur": (draws.sigma != 0, 0.3),
        "cut-out": (draws.cut, 0.7),
    }
    for name, (cases, probability) in happened.items():
        deviation = np.sqrt(probability * (1 - probability) / len(cases))
        assert abs(cases.mean() - probability) < 4 * deviation, name
    together = np.corrcoef([cases for cases, _ in happened.values()]) - np.eye(len(happened))
    assert np.abs(together).max() < 5 / np.sqrt(len(draws.cut))  # none hangs on another


def test_ranges_are_used_evenly(draws: Draw) -> None:
    reach = np.abs(draws.scale - 1) / 2 + 0.1
    ranges = {
        "angle": (draws.angle[draws.angle != 0], -np.deg2rad(25), np.deg2rad(25)),
        "scale": (draws.scale, 0.8, 1.25),
        "down": (draws.shift[:, 0] / reach, -1, 1),
        "right": (draws.shift[:, 1] / reach, -1, 1),
        "brightness": (draws.brightness[draws.brightness != 0], -16, 16),
        "contrast": (draws.contrast[draws.contrast != 1], 0.75, 1.25),
        "saturation": (draws.saturation[draws.saturation != 1], 0.8, 1.2),
        "hue": (draws.hue[draws.hue != 0], -18, 18),
        "sigma": (draws.sigma[draws.sigma != 0], 0, 1.5),
        "hole y": (draws.hole[:, 0], 0, 1),
        "hole x": (draws.hole[:, 1], 0, 1),
    }
    for name, (values, low, high) in ranges.items():
        shares = np.sort((values - low) / (high - low))
        assert shares[0] > -1e-5 and shares[-1] < 1 + 1e-5, name
        # Kolmogorov and Smirnov's distance from the even distribution; 1.95 is p = 0.001.
        distance = np.abs(shares - np.arange(len(shares)) / len(shares)).max()
        assert distance < 1.95 / np.sqrt(len(shares)), name


def test_an_enlarged_picture_fills_the_frame() -> None:
    """A crop: scale alone shows nothing from outside."""
    config = Config(scale_max=1.25)
    batch = {
        "image": jnp.ones((64, 16, 16, 3), jnp.uint8),
        "label": jnp.zeros((64, 16, 16), jnp.uint8),
        "key": picture_keys(0, 0, 64),
    }
    result = compiled_augment(config)(batch)
    assert not result["label"].any()
    np.testing.assert_allclose(result["image"], 1, rtol=1e-6)


def test_one_ingredient_does_not_change_the_draws_of_another(draws: Draw) -> None:
    alone = Config(rotation_probability=0.4)
    again = jax.jit(lambda: jax.vmap(partial(draw, config=alone))(picture_keys(3, 5, 8192)))()
    np.testing.assert_array_equal(again.angle, draws.angle)
    assert not again.mirrored.any() and not again.cut.any()


def test_keys_are_of_seed_step_and_place() -> None:
    def data(*arguments: int) -> list[tuple[int, ...]]:
        return [tuple(key) for key in np.asarray(jax.random.key_data(picture_keys(*arguments)))]

    assert data(0, 3, 4) == data(0, 3, 8)[:4]
    traced = jax.jit(lambda step: jax.random.key_data(picture_keys(0, step, 4)))(3)
    np.testing.assert_array_equal(traced, data(0, 3, 4))
    assert len({*data(0, 3, 8), *data(0, 4, 8), *data(1, 3, 8)}) == 24


def test_the_original_recipes_augment_nothing() -> None:
    augmented = {name for name in experiment_files() if augments(load_experiment(name))}
    others = {name for name in experiment_files() if name.endswith("_plus")}
    others |= {"lite0", "tiny", "swin_b_plus_in22k", "bisenet_r18", "bisenet_r34"}
    assert augmented == others
    assert {"swin_t", "deeplabv3plus_r50_20k"} < experiment_files().keys() - augmented
    off = replace(ALL, scale_min=1.0, scale_max=1.0, translation=0.0)
    zero = {name: 0.0 for name in vars(off) if name.endswith("_probability")}
    zero |= dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    off = replace(off, **zero)
    assert not augments(off)
    for name in (*zero, "translation"):
        assert augments(replace(off, **{name: 0.5})), name
    assert augments(replace(off, scale_max=1.1)) and augments(replace(off, scale_min=0.9))
    image, label = picture(8)
    batch = {"image": image[None], "label": label[None], "key": picture_keys(0, 0, 1)}
    result = compiled_augment(off)(batch)
    np.testing.assert_array_equal(result["image"], image[None])
    np.testing.assert_array_equal(result["label"], label[None])


def test_pictures_that_nothing_is_drawn_for_keep_every_bit() -> None:
    image, label = picture(9)
    ours, mask = ours_alone(ALL, image, label)
    np.testing.assert_array_equal(ours, image)
    np.testing.assert_array_equal(mask, label)


def test_accumulation_sees_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss whose gradients are the sums of all pictures and masks that it was given."""

    def sums(
        graphdef: None,
        params: dict[str, Array],
        stats: None,
        image: Array,
        label: Array,
        *_: object,
    ) -> tuple[Array, tuple[StepMetrics, None]]:
        assert image.dtype == jnp.float32
        loss = (params["image"] * image).sum() + (params["label"] * label).sum()
        return loss, (StepMetrics(loss, loss, loss, loss), None)

    monkeypatch.setattr(steps, "losses", sums)
    pictures = [picture(seed, (16, 16)) for seed in range(8)]
    batch = {"image": jnp.stack([x for x, _ in pictures]), "key": picture_keys(2, 7, 8)}
    batch["label"] = jnp.stack([x for _, x in pictures])
    params = {"image": jnp.zeros((16, 16, 3)), "label": jnp.zeros((16, 16))}
    state = TrainState(jnp.array(7), params, None, None)
    compiled = jax.jit(accumulated_gradients, static_argnums=(0, 4))

    def total(parts: int, batch: Batch) -> dict[str, Array]:
        config = replace(ALL, batch_size=8, accumulate_steps=parts)
        grads, *_ = compiled(None, state, batch, jax.random.key(0), config)
        return {name: parts * grad for name, grad in grads.items()}

    whole, parted = total(1, batch), total(4, batch)
    np.testing.assert_array_equal(parted["label"], whole["label"])
    np.testing.assert_allclose(parted["image"], whole["image"], atol=1e-4)
    other = total(1, batch | {"key": picture_keys(2, 8, 8)})
    assert (other["label"] != whole["label"]).any()


def test_a_step_augments_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step by itself, as after a resume, sees what `picture_keys` gives."""

    def seen(
        graphdef: object, state: TrainState, batch: Batch, key: Array, config: Config
    ) -> tuple[dict[str, Array], StepMetrics, None]:
        grads, batch = jax.tree.map(jnp.zeros_like, state.params), augment(batch, config)
        sums = batch["image"].sum(), batch["label"].sum(dtype=jnp.int32)
        return grads, StepMetrics(*sums, *sums), None

    monkeypatch.setattr(steps, "accumulated_gradients", seen)
    config = replace(mini.config, seed=2)
    pictures = [picture(seed, (16, 16)) for seed in range(4)]
    batch = {"image": jnp.stack([x for x, _ in pictures])}
    batch["label"] = jnp.stack([x for _, x in pictures])
    params = {"w": jnp.zeros(1)}
    optimizer_state = make_optimizer(config).init(params)
    step = make_train_step(config)
    found = set()
    for number in (5, 3):
        state = TrainState(jnp.array(number), jax.tree.map(jnp.copy, params), None, optimizer_state)
        metrics = step(jax.tree.map(jnp.copy, state), batch)[1]
        expected = compiled_augment(config)(batch | {"key": picture_keys(2, number, 4)})
        assert int(metrics.decode_loss) == int(expected["label"].sum(dtype=jnp.int32))
        assert float(metrics.loss) == pytest.approx(float(expected["image"].sum()), rel=1e-5)
        found.add(int(metrics.decode_loss))
    assert len(found) == 2


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"mirror_probability": 1.1}, ("mirror_probability is 1.1", "0..1")),
        ({"rotation_degrees": -1.0}, ("rotation_degrees is -1.0", "0..180")),
        ({"scale_min": 0.0}, ("scale_min is 0.0", "0.1..10")),
        ({"scale_min": 1.2}, ("scale_min is 1.2", "scale_max (1.0)")),
        ({"blur_sigma": 0.0}, ("blur_sigma is 0.0", "above 0")),
        ({"brightness": 300.0}, ("brightness is 300.0", "0..255")),
        ({"cutout_labels": "drop"}, ("cutout_labels is drop", "ignore, keep")),
    ],
)
def test_values_that_no_augmentation_can_have(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with refuses(*words):
        Config(**changes)
