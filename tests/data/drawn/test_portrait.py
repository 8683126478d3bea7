"""Drawn persons: every class, left and right, what covers what, what hangs where."""

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.data.drawn.drawing import render
from jaxparse.data.drawn.portrait import Person, draw_parts, random_person

# Least number of 120 pictures that show the class; every class not named is in all of them.
LEAST_PICTURES = {
    "eye_glasses": 8,
    "left_eye": 90,
    "right_eye": 90,
    "left_brow": 110,
    "right_brow": 110,
    "left_ear": 60,
    "right_ear": 60,
    "mouth": 45,
    "hair": 105,
    "hat": 6,
    "earring": 24,
    "necklace": 10,
    "neck": 110,
    "cloth": 90,
}


def draw(seed: int, index: int, size: int) -> tuple[Person, np.ndarray]:
    """The person and the label, uint8 [size, size]."""
    rng = np.random.default_rng((seed, index))
    person = random_person(rng)
    return person, render(draw_parts(person, rng), size)[2]


@pytest.fixture(scope="module")
def drawn() -> tuple[list[Person], np.ndarray]:
    """120 persons and their labels [120, 96, 96]."""
    persons, labels = zip(*(draw(0, index, 96) for index in range(120)), strict=True)
    return list(persons), np.stack(labels)


@pytest.fixture(scope="module")
def labels(drawn: tuple[list[Person], np.ndarray]) -> np.ndarray:
    """[120, 96, 96]"""
    return drawn[1]


def has(labels: np.ndarray, name: str) -> np.ndarray:
    """Whether each picture shows the class: bool [N]."""
    return (labels == CELEBAMASK.names.index(name)).any((1, 2))


def test_every_class_occurs_often_enough(labels: np.ndarray) -> None:
    counts = {name: int(has(labels, name).sum()) for name in CELEBAMASK.names}
    short = {n: c for n, c in counts.items() if c < LEAST_PICTURES.get(n, len(labels))}
    assert not short
    for name, share in {"eye_glasses": 0.3, "hat": 0.3, "earring": 0.5, "necklace": 0.3}.items():
        assert counts[name] < share * len(labels)


def test_parts_are_large_enough_to_learn(labels: np.ndarray) -> None:
    for value, name in enumerate(CELEBAMASK.names):
        sizes = (labels == value).sum((1, 2))
        assert np.median(sizes[sizes > 0]) >= 20, name  # of 9216 pixels


def test_left_is_at_image_right(labels: np.ndarray) -> None:
    columns = np.arange(labels.shape[2])
    for left, right in CELEBAMASK.pairs:
        both = labels[(labels == left).any((1, 2)) & (labels == right).any((1, 2))]
        assert len(both) > 30
        middles = [(columns * (both == part)).sum((1, 2)) for part in (left, right)]
        middles = [m / (both == p).sum((1, 2)) for m, p in zip(middles, (left, right), strict=True)]
        assert (middles[0] > middles[1]).all()


def test_glasses_cover_the_eyes(labels: np.ndarray) -> None:
    glasses = has(labels, "eye_glasses")
    assert not has(labels[glasses], "left_eye").any()
    assert not has(labels[glasses], "right_eye").any()


def test_loose_hair_covers_the_ears(drawn: tuple[list[Person], np.ndarray]) -> None:
    persons, labels = drawn
    loose = np.array([person.loose for person in persons])
    for side, name in enumerate(("left_ear", "right_ear")):
        shares = (labels == CELEBAMASK.names.index(name)).mean((1, 2))
        hidden, tucked = shares[loose[:, side]], shares[~loose[:, side]]
        assert len(hidden) > 15
        assert hidden.mean() < 0.2 * tucked.mean()


def test_hats_cover_the_crown(labels: np.ndarray) -> None:
    hats = labels[has(labels, "hat")]
    rows = np.arange(labels.shape[1])[:, None]
    tops = [
        np.where(hats == CELEBAMASK.names.index(name), rows, labels.shape[1]).min((1, 2))
        for name in ("hat", "hair", "skin")
    ]
    assert (tops[0] < tops[1]).all()
    assert (tops[0] < tops[2]).all()


def test_earrings_hang_below_the_eyes_and_necklaces_below_the_mouth(labels: np.ndarray) -> None:
    rows = np.arange(labels.shape[1])[:, None]

    def height(pictures: np.ndarray, name: str) -> np.ndarray:
        mask = pictures == CELEBAMASK.names.index(name)
        return (rows * mask).sum((1, 2)) / mask.sum((1, 2))

    earrings = labels[has(labels, "earring")]
    assert (height(earrings, "earring") > height(earrings, "nose")).mean() > 0.9
    necklaces = labels[has(labels, "necklace")]
    assert (height(necklaces, "necklace") > height(necklaces, "lower_lip")).all()


def test_a_canvas_has_room_for_every_paint() -> None:
    for index in range(200, 300):
        draw(1, index, 16)  # asserts that its paints fit
