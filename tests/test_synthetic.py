"""Drawn faces: the same for the same arguments, exact masks, every class, the layout on disk."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import synthetic
from jaxparse.classes import LEFT_RIGHT_PAIRS, NAMES, NUM_CLASSES, PALETTE
from jaxparse.synthetic import Arguments, draw_face, draw_person

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


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """[120, 96, 96]"""
    return np.stack([draw_face(0, index, 96)[1] for index in range(120)])


def has(labels: np.ndarray, name: str) -> np.ndarray:
    """Whether each picture shows the class: bool [N]."""
    return (labels == NAMES.index(name)).any((1, 2))


def test_same_arguments_same_face() -> None:
    image, label = draw_face(3, 5, 64)
    again, label_again = draw_face(3, 5, 64)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    for seed, index in ((3, 6), (4, 5)):
        other, other_label = draw_face(seed, index, 64)
        assert (image != other).mean() > 0.5
        assert (label != other_label).any()


@pytest.mark.parametrize("size", [64, 97, 256])
def test_types_and_ranges(size: int) -> None:
    image, label = draw_face(0, 1, size)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (label.shape, label.dtype) == ((size, size), np.uint8)
    assert label.max() < NUM_CLASSES
    assert image.std() > 10


def test_another_size_shows_the_same_face() -> None:
    for index in range(5):
        image, label = draw_face(0, index, 64)
        large_image, large_label = draw_face(0, index, 192)
        assert (large_label[1::3, 1::3] == label).mean() > 0.97
        shrunk = large_image.reshape(64, 3, 64, 3, 3).mean((1, 3))
        assert np.abs(shrunk - image).mean() < 10


def test_every_class_occurs_often_enough(labels: np.ndarray) -> None:
    counts = {name: int(has(labels, name).sum()) for name in NAMES}
    short = {n: c for n, c in counts.items() if c < LEAST_PICTURES.get(n, len(labels))}
    assert not short
    for name, share in {"eye_glasses": 0.3, "hat": 0.3, "earring": 0.5, "necklace": 0.3}.items():
        assert counts[name] < share * len(labels)


def test_parts_are_large_enough_to_learn(labels: np.ndarray) -> None:
    for value, name in enumerate(NAMES):
        sizes = (labels == value).sum((1, 2))
        assert np.median(sizes[sizes > 0]) >= 20, name  # of 9216 pixels


def test_left_is_at_image_right(labels: np.ndarray) -> None:
    columns = np.arange(labels.shape[2])
    for left, right in LEFT_RIGHT_PAIRS:
        both = labels[(labels == left).any((1, 2)) & (labels == right).any((1, 2))]
        assert len(both) > 30
        middles = [(columns * (both == part)).sum((1, 2)) for part in (left, right)]
        middles = [m / (both == p).sum((1, 2)) for m, p in zip(middles, (left, right), strict=True)]
        assert (middles[0] > middles[1]).all()


def test_glasses_cover_the_eyes(labels: np.ndarray) -> None:
    glasses = has(labels, "eye_glasses")
    assert not has(labels[glasses], "left_eye").any()
    assert not has(labels[glasses], "right_eye").any()


def test_loose_hair_covers_the_ears(labels: np.ndarray) -> None:
    loose = np.array([draw_person(np.random.default_rng((0, i))).loose for i in range(len(labels))])
    for side, name in enumerate(("left_ear", "right_ear")):
        shares = (labels == NAMES.index(name)).mean((1, 2))
        hidden, tucked = shares[loose[:, side]], shares[~loose[:, side]]
        assert len(hidden) > 15
        assert hidden.mean() < 0.2 * tucked.mean()


def test_hats_cover_the_crown(labels: np.ndarray) -> None:
    hats = labels[has(labels, "hat")]
    rows = np.arange(labels.shape[1])[:, None]
    tops = [
        np.where(hats == NAMES.index(name), rows, labels.shape[1]).min((1, 2))
        for name in ("hat", "hair", "skin")
    ]
    assert (tops[0] < tops[1]).all()
    assert (tops[0] < tops[2]).all()


def test_earrings_hang_below_the_eyes_and_necklaces_below_the_mouth(labels: np.ndarray) -> None:
    rows = np.arange(labels.shape[1])[:, None]

    def height(pictures: np.ndarray, name: str) -> np.ndarray:
        mask = pictures == NAMES.index(name)
        return (rows * mask).sum((1, 2)) / mask.sum((1, 2))

    earrings = labels[has(labels, "earring")]
    assert (height(earrings, "earring") > height(earrings, "nose")).mean() > 0.9
    necklaces = labels[has(labels, "necklace")]
    assert (height(necklaces, "necklace") > height(necklaces, "lower_lip")).all()


def test_image_edges_are_soft_and_label_edges_hard() -> None:
    def shapes() -> Iterator[synthetic.Shape]:
        diamond = np.array([(0.5, 0.1), (0.9, 0.5), (0.5, 0.9), (0.1, 0.5)])
        yield synthetic.SKIN, np.array((200, 100, 50)), diamond
        yield synthetic.CLOTH, np.array((0, 100, 250)), diamond * (0.5, 1)  # over it

    colors, coverage, label = synthetic.render(shapes(), 40)
    assert set(np.unique(label)) == {0, synthetic.SKIN, synthetic.CLOTH}
    np.testing.assert_array_equal(colors[20, 30], (200, 100, 50))
    np.testing.assert_array_equal(colors[20, 12], (0, 100, 250))  # the later shape hides the first
    assert label[20, 12] == synthetic.CLOTH
    assert coverage[0, 0, 0] == 0
    assert coverage[20, 20, 0] == 1
    edge = (coverage > 0.05) & (coverage < 0.95)
    assert 40 < edge.sum() < 200
    # Centres decide: what is mostly covered is labelled, what is mostly bare is not.
    assert (label[coverage[..., 0] > 0.7] > 0).all()
    assert (label[coverage[..., 0] < 0.3] == 0).all()
    assert coverage.mean() == pytest.approx((label > 0).mean(), abs=0.01)


def test_a_canvas_has_room_for_every_paint() -> None:
    for index in range(200, 300):
        draw_face(1, index, 16)  # asserts that its paints fit


def test_the_command_writes_the_challenge_layout(tmp_path: Path) -> None:
    synthetic.main(Arguments(tmp_path, count=2, val_count=1, size=64, seed=7))
    for split, indices in {"train": (0, 1), "val": (synthetic.VAL_START,)}.items():
        images = sorted((tmp_path / split / f"{split}_image").iterdir())
        masks = sorted((tmp_path / split / f"{split}_mask").iterdir())
        assert [path.name for path in images] == [f"{index:07d}.jpg" for index in indices]
        assert [path.name for path in masks] == [f"{index:07d}.png" for index in indices]
        for index, image_path, mask_path in zip(indices, images, masks, strict=True):
            image, label = draw_face(7, index, 64)
            with Image.open(mask_path) as mask:
                assert mask.mode == "P"
                palette = np.array(mask.getpalette()).reshape(-1, 3)[:NUM_CLASSES]
                np.testing.assert_array_equal(palette, PALETTE)
                np.testing.assert_array_equal(np.asarray(mask), label)
            with Image.open(image_path) as picture:
                assert np.abs(np.asarray(picture, float) - image).mean() < 8


def test_bad_arguments_end_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jaxparse.synthetic", "--output", str(tmp_path), "--count"]
    result = subprocess.run([*command, "0"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot draw 0 + 200 faces of size 512")
    assert result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: .*file"):
        synthetic.main(Arguments(tmp_path / "file", count=1, size=64))
