from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.parsing.alignment import invert
from jaxparse.parsing.placed import Placed, assemble_placed
from jaxparse.parsing.tiles import Level, assemble, tile_classes, tile_confidence

SKIN, HAIR = 1, 13
NOWHERE = np.uint8(0)
NO_BOX = (0, 0, 0, 0)
CLASSES, CONFIDENCE = (
    partial(compute, network=CELEBAMASK, classes=CELEBAMASK)
    for compute in (tile_classes, tile_confidence)
)


def place(centre: tuple[float, float], side: float, degrees: float = 0) -> np.ndarray:
    """The alignment of a crop at that place, turned counterclockwise."""
    angle = np.deg2rad(degrees)
    across = side * np.array((np.cos(angle), -np.sin(angle)))
    below = np.array((-across[1], across[0]))
    return np.stack([across, below, centre - (across + below) / 2], 1)


def disc(index: int, middle: tuple[float, float], radius: float) -> np.ndarray:
    """Logits [64, 64, 19] of a crop: a class in a disc (in parts of the side), else background.

    They fall linearly with the distance, so that the disc's edge is exact between them as well.
    """
    u, v = np.meshgrid(*[(np.arange(64) + 0.5) / 64] * 2)
    logits = np.full((64, 64, 19), -9, np.float32)
    logits[..., 0] = 0
    logits[..., index] = 20 * (radius - np.hypot(u - middle[0], v - middle[1]))
    return logits


def inside(alignment: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) of every pixel's centre."""
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    return tuple(row[0] * x + row[1] * y + row[2] for row in invert(alignment))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("side", "degrees"), [(150, 0), (150, 20), (40, -35), (90, 180), (400, 100)]
)
def test_a_known_mask_comes_back_where_it_was(side: float, degrees: float, mirrored: bool) -> None:
    """At every pixel whose centre is not within a twentieth of a pixel of the disc's edge."""
    size, middle, radius = (260, 310), (0.4, 0.55), 0.3
    alignment = place((140.3, 131.8), side, degrees)
    views = disc(SKIN, middle, radius)[None]
    if mirrored:
        views = np.concatenate([views, views[:, :, ::-1]])
    face = Placed([Level(jnp.asarray(views))], alignment, 256, NO_BOX)
    mask = assemble_placed([face], size, NOWHERE, 0, CLASSES)
    assert mask.shape == size and mask.dtype == np.uint8
    u, v = inside(alignment, size)
    distance = np.hypot(u - middle[0], v - middle[1])
    truth = (distance < radius) & (np.abs([u - 0.5, v - 0.5]).max(0) < 0.5)
    found = mask == SKIN
    assert (found & truth).sum() / (found | truth).sum() > 0.99
    # A cone between four logits is a little lower than itself: by less than 1/64² / (8 * 0.3).
    clear = np.abs(distance - radius) > 2e-4
    np.testing.assert_array_equal(found[clear], truth[clear])


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_crop_that_is_the_picture_is_plain_upsampling(align_corners: bool) -> None:
    size = 160, 160
    rng = np.random.default_rng(0)
    levels = [
        Level(jnp.asarray(rng.normal(size=(2, n, n, 19)), jnp.float32), align_corners)
        for n in (16, 24)
    ]
    face = Placed(levels, place((80, 80), 160), 160, NO_BOX)
    found = assemble_placed([face], size, np.float32(1), 0, CLASSES, CONFIDENCE)
    np.testing.assert_allclose(found, assemble(levels, size, CONFIDENCE), atol=1e-5)
    mask = assemble_placed([face], size, NOWHERE, 0, CLASSES)
    assert (mask == assemble(levels, size, CLASSES)).mean() > 0.999


def group(near_box: tuple, far_box: tuple) -> tuple[list[Placed], np.ndarray, np.ndarray]:
    """A near face of hair, a far one of skin, whose crops of 100 and 60 pixels overlap, and where
    the two are.
    """
    levels = [[Level(jnp.asarray(disc(index, (0.5, 0.5), 0.4))[None])] for index in (HAIR, SKIN)]
    near = Placed(levels[0], place((60, 60), 100), 64, near_box)
    far = Placed(levels[1], place((110, 60), 60), 64, far_box)
    rows, columns = np.mgrid[:130, :200] + 0.5
    hair, skin = np.hypot(columns - 60, rows - 60) < 40, np.hypot(columns - 110, rows - 60) < 24
    assert (hair & skin).any() and (hair & (columns > 86)).any()
    return [far, near], hair, skin


def test_the_face_in_front_hides_others_and_its_background_none() -> None:
    faces, hair, skin = group((20, 20, 100, 100), (86, 36, 134, 84))
    mask = assemble_placed(faces, hair.shape, NOWHERE, 0, CLASSES)
    assert (mask == np.select([hair, skin], [HAIR, SKIN])).mean() > 0.999
    confidence = assemble_placed(faces, hair.shape, np.float32(1), 0, CLASSES, CONFIDENCE)
    assert (confidence[:10] == 1).all() and (confidence[110:] == 1).all()  # beyond the crops
    assert (confidence[10:110, 10:110] < 1).all() and (confidence[30:90, 110:140] < 1).all()


def test_beyond_its_own_box_a_face_does_not_hide_the_box_of_another() -> None:
    faces, hair, skin = group((20, 20, 90, 100), (86, 36, 134, 84))
    mask = assemble_placed(faces, hair.shape, NOWHERE, 0, CLASSES)
    columns = np.arange(200) + 0.5
    of_far = skin & ((columns > 90) | ~hair)
    assert (mask == np.select([of_far, hair], [SKIN, HAIR])).mean() > 0.999
