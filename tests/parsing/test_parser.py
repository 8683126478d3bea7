from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import CELEBAMASK
from jaxparse.data.masks import read_label
from jaxparse.parsing.overlay import blend
from jaxparse.parsing.parser import Parser, TestTime
from jaxparse.parsing.regions import feather, grow
from jaxparse.parsing.tiles import tile_classes
from tests.conftest import Nano
from tests.parsed import draw, face, require_highest, resized, share_program, softmax
from tests.refusal import refuses


@pytest.fixture
def make_parser(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parser]:
    """Parsers of one network, which is compiled once per input size."""
    share_program(monkeypatch, nano)

    def make(**settings: object) -> Parser:
        return Parser(nano.config, nano.params, nano.batch_stats, TestTime(**settings))

    return make


def test_scales_and_the_mirror_image_are_averaged(nano: Nano, make_parser: Callable) -> None:
    image = face(3, (64, 64))
    result = make_parser(scales=(1.0, 1.5), flip=True)(image)
    expected = 0
    # Resized as OpenCV does, without antialiasing.
    for side in (64, 96):
        for view in (image, image[:, ::-1]):
            batch = np.stack([resized(view, (side, side)).astype(np.float32)] * 4)
            probabilities = softmax(resized(np.asarray(nano.network(batch)[0]), (64, 64)))
            if view is not image:
                probabilities = probabilities[:, ::-1][..., CELEBAMASK.mirrored]
            expected += probabilities / 4
    require_highest(result.mask, expected)
    for name in ("skin", "left_eye", "right_brow"):
        wanted = expected[..., CELEBAMASK.names.index(name)]
        np.testing.assert_allclose(result.probability(name), wanted, atol=2e-5)


def test_classes_that_mirror_images_do_not_exchange_are_said(
    nano: Nano, caplog: pytest.LogCaptureFixture
) -> None:
    names = tuple(name.replace("right_eye", "iris") for name in CELEBAMASK.names)
    config = replace(nano.config, classes=replace(CELEBAMASK, names=names, pairs=()))
    for flip, lines in ((False, 0), (True, 1)):
        Parser(config, nano.params, nano.batch_stats, TestTime(flip=flip))
        assert len(caplog.messages) == lines
    assert "left_eye" in caplog.messages[0] and "brow" not in caplog.messages[0]


@pytest.mark.parametrize("settings", [{}, {"scales": (0.5, 1.0)}])
@pytest.mark.parametrize("size", [(64, 64), (101, 257)])
def test_a_mirrored_picture_gives_the_mirrored_mask(
    make_parser: Callable, settings: dict, size: tuple[int, int]
) -> None:
    parser = make_parser(flip=True, **settings)
    image = face(0, size)
    result, mirrored = parser([image, image[:, ::-1]])
    np.testing.assert_array_equal(mirrored.mask, CELEBAMASK.mirrored[result.mask[:, ::-1]])
    assert {4, 5, 6, 7, 8, 9} & set(np.unique(result.mask))  # a class with sides is there
    plain = make_parser(**settings)
    differs = plain(image[:, ::-1]).mask != CELEBAMASK.mirrored[plain(image).mask[:, ::-1]]
    assert differs.any()  # it is the flip's doing


def test_pictures_of_all_sizes_share_programs(make_parser: Callable) -> None:
    parser = make_parser()
    parser(face(0, (601, 599)))
    programs = tile_classes._cache_size()
    for size in [(701, 530), (599, 642)]:  # some 4 of the 16 logits reach a tile
        parser(face(0, size))
    assert tile_classes._cache_size() == programs


def test_paths_pictures_and_arrays_are_the_same(make_parser: Callable, tmp_path: Path) -> None:
    parser = make_parser()
    image = face(1, (50, 70))
    path = draw(tmp_path / "face.png", 1, (50, 70))
    results = parser([path, str(path), Image.open(path), image, Image.fromarray(image)])
    for result in results:
        np.testing.assert_array_equal(result.mask, results[0].mask)
    single = parser(path)
    assert single.mask.shape == (50, 70) and single.mask.dtype == np.uint8
    np.testing.assert_array_equal(single.mask, results[0].mask)


@pytest.mark.full
@pytest.mark.parametrize("precision, rounding", [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_16_bits_round_the_logits(nano: Nano, precision: str, rounding: float) -> None:
    picture = face(0, (64, 64))
    exact, rounded = (
        Parser(nano.config, nano.params, nano.batch_stats, TestTime(precision=p))(picture)
        for p in ("float32", precision)
    )
    logits, ours = (np.asarray(parsing.levels[0].logits) for parsing in (exact, rounded))
    assert logits.dtype == ours.dtype == np.float32
    error = np.sqrt(np.mean((ours - logits) ** 2) / np.mean(logits**2))
    assert rounding / 10 < error < 10 * rounding
    assert (exact.mask == rounded.mask).mean() > 0.95


def test_what_a_parsing_tells(make_parser: Callable, tmp_path: Path) -> None:
    image = face(2, (40, 60))
    result = make_parser()(image)
    area = result.area()
    assert sum(area.values()) == pytest.approx(1)
    assert area[CELEBAMASK.names[result.mask[0, 0]]] == (result.mask == result.mask[0, 0]).mean()
    assert set(area) == {CELEBAMASK.names[index] for index in np.unique(result.mask)}
    total = sum(result.probability(name) for name in CELEBAMASK.names)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    np.testing.assert_array_equal(
        np.asarray(result.overlay())[:40, :60], blend(image, result.mask, CELEBAMASK)
    )
    result.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), result.mask)
    with refuses("mask.jpg"):
        result.save(tmp_path / "mask.jpg")
    with refuses("beard", "background, skin"):
        result.probability("beard")


def test_regions_are_sums_of_probabilities_or_of_the_mask(make_parser: Callable) -> None:
    result = make_parser()(face(2, (40, 60)))
    total = result.probability("skin") + result.probability("nose")
    soft = result.region(("skin", "nose"))
    assert soft.dtype == np.uint8 and np.abs(soft - 255 * total.astype(float)).max() < 0.51
    np.testing.assert_array_equal(result.region(CELEBAMASK.names), np.full((40, 60), 255))
    hard = result.region(("skin", "nose"), hard=True)
    np.testing.assert_array_equal(hard, 255 * np.isin(result.mask, (1, 2)))
    np.testing.assert_array_equal(result.region("skin"), result.region(["skin"]))
    changed = result.region(("skin", "nose"), grow=2, feather=3)
    np.testing.assert_array_equal(changed, feather(grow(soft, 2), 3))
    with refuses("beard", "background, skin"):
        result.region(("beard",), hard=True)
    with refuses("feather is -1", "at least 0"):
        result.region("skin", feather=-1)


def test_loads_what_a_weights_file_says(nano: Nano) -> None:
    parser = Parser.load(nano.weights)
    assert (parser.image_size, parser.batch_size) == (64, 4)
    images = [face(index, (64, 64)) for index in range(4)]
    logits = np.asarray(nano.network(np.stack(images)))
    for result, expected in zip(parser(images), logits, strict=True):
        require_highest(result.mask, resized(expected, (64, 64)))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 [4, 4, 3]"),
        (np.zeros((4, 4, 4), np.uint8), "uint8 [4, 4, 4]"),
        (np.zeros(4, np.uint8), "uint8 [4]"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 [0, 4, 3]"),
    ],
)
def test_arrays_of_other_kinds_are_refused(
    make_parser: Callable, array: np.ndarray, words: str
) -> None:
    with refuses(words, "uint8 [height, width, 3]"):
        make_parser()(array)


@pytest.mark.parametrize("source", [None, b"\xff\xd8", 3, [[0, 1], [2, 3]]])
def test_what_is_no_picture_is_refused(make_parser: Callable, source: object) -> None:
    with refuses("is not a picture", "a path, a PIL image or an array"):
        make_parser()(source)


def test_arrays_of_jax_are_pictures(make_parser: Callable) -> None:
    image = face(3, (20, 30))
    np.testing.assert_array_equal(make_parser()(jnp.asarray(image)).mask, make_parser()(image).mask)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scales": ()}, ("()", "0.1", "4")),
        ({"scales": (1.0, 0.0)}, ("(1.0, 0.0)", "0.1", "4")),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: tuple) -> None:
    with refuses(*words):
        TestTime(**settings)
