"""Accessories and backgrounds of other pictures, by hand and by numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxparse.classes import CELEBAMASK, IGNORE_LABEL
from jaxparse.config import Config
from jaxparse.training.augment import augment, with_keys
from jaxparse.training.compose import paste_accessories, random_background, soften
from tests import reference
from tests.refusal import refuses

HAT, EARRING, SKIN, BACKGROUND = map(CELEBAMASK.index, ("hat", "earring", "skin", "background"))
NOTHING = Config(mirror_probability=0, image_size=32)


def two_pictures() -> dict[str, np.ndarray]:
    """Uniform pictures of 10 and 200, skin all over; the second wears a hat and an earring."""
    image = np.full((2, 32, 32, 3), [[[[10]]], [[[200]]]], np.uint8)
    label = np.full((2, 32, 32), SKIN, np.uint8)
    label[1, :8], label[1, 20:24, :4] = HAT, EARRING
    return {"image": image, "label": label}


def keyed(config: Config) -> dict[str, jax.Array]:
    return with_keys(two_pictures(), 0, config)


def test_the_next_picture_gives_its_accessories() -> None:
    batch = keyed(replace(NOTHING, paste_probability=1.0))
    worn = np.isin(two_pictures()["label"][1], [HAT, EARRING])
    np.testing.assert_array_equal(batch["image"][0, ..., 0], np.where(worn, 200, 10))
    np.testing.assert_array_equal(batch["label"][0], two_pictures()["label"][1])
    # The first wears nothing that the second could get.
    np.testing.assert_array_equal(batch["image"][1], two_pictures()["image"][1])
    np.testing.assert_array_equal(batch["label"][1], two_pictures()["label"][1])


def test_a_share_of_the_pictures_gets_them() -> None:
    label = np.full((400, 1, 1), HAT, np.uint8)
    label[::2] = SKIN
    batch = {"image": np.zeros((400, 1, 1, 3), np.uint8), "label": label}
    config = replace(NOTHING, paste_probability=0.3)
    keys = jax.random.split(jax.random.key(1), 400)
    pasted = paste_accessories(batch | {"key": keys}, config)["label"][::2] == HAT
    assert abs(float(pasted.mean()) - 0.3) < 3 * (0.3 * 0.7 / 200) ** 0.5


def test_edges_are_softened_over_three_pixels() -> None:
    person = np.zeros((5, 6), bool)
    person[:, 3:] = True
    expected = np.tile([0, 0, 1 / 3, 2 / 3, 1, 1], (5, 1))
    np.testing.assert_allclose(soften(jnp.asarray(person)), expected, atol=1e-6)


def test_backgrounds_differ_and_stay_in_range() -> None:
    other = jnp.full((16, 24, 3), 90, jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 64)
    found = np.asarray(reference.jit(jax.vmap(random_background, (0, None)))(keys, other))
    assert found.shape == (64, 16, 24, 3)
    assert found.min() >= 0 and found.max() <= 255
    assert np.ptp(found.mean((1, 2)), axis=0).min() > 100  # of the mean colours


def composed(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """32 white pictures of that mask, composed and otherwise unchanged, with their masks."""
    config = replace(NOTHING, compose_probability=1.0)
    batch = {
        "image": np.full((32, *label.shape, 3), 255, np.uint8),
        "label": np.broadcast_to(label, (32, *label.shape)),
    }
    found = reference.jit(lambda batch: augment(with_keys(batch, 0, config), config))(batch)
    return np.asarray(found["image"]), np.asarray(found["label"])


def test_people_stand_before_another_background() -> None:
    label = np.full((32, 32), BACKGROUND, np.uint8)
    label[12:20, 12:20] = SKIN
    image, found = composed(label)
    assert set(np.unique(found)) == {BACKGROUND, SKIN}  # the background goes on outside
    shares = (found == SKIN).mean((1, 2)) / (8 / 32) ** 2
    assert shares.min() < 0.2 and shares.max() > 1  # scaled by 0.3 to 1.25, in area
    alone = np.stack([np.asarray(soften(jnp.asarray(each != SKIN))) == 1 for each in found])
    assert np.abs(image[alone] - 255).mean() > 20
    inside = np.stack([np.asarray(soften(jnp.asarray(each == SKIN))) == 1 for each in found])
    np.testing.assert_allclose(image[inside], 255, atol=1e-3)


def test_what_the_border_cuts_off_is_ignored_beyond_it() -> None:
    image, found = composed(np.full((32, 32), SKIN, np.uint8))
    assert set(np.unique(found)) == {SKIN, IGNORE_LABEL}
    np.testing.assert_allclose(image, 255, atol=1e-3)  # the outermost pixels go on


def test_composing_needs_a_background() -> None:
    classes = replace(CELEBAMASK, names=("nothing", *CELEBAMASK.names[1:]))
    with refuses("compose_probability", "background"):
        replace(NOTHING, classes=classes, compose_probability=0.5)
