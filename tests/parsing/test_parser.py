import doctest
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxparse
from jaxparse.classes import MIRRORED, NAMES
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import read_label, write_image
from jaxparse.models.ops.resize import resize_matrix
from jaxparse.parsing import parser as parser_module
from jaxparse.parsing.network import predict_label
from jaxparse.parsing.overlay import blend
from jaxparse.parsing.parser import Parser, Parsing, Picture, TestTime
from jaxparse.parsing.tiles import Level, tile_classes, window_matrix, window_starts
from tests.conftest import Nano
from tests.refusal import refuses


@pytest.fixture
def make_parser(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parser]:
    """Parsers of one network, which is compiled for batches of 4 at each input size."""
    step = lambda config: lambda params, batch_stats, image: nano.network(image)  # noqa: E731
    monkeypatch.setattr(parser_module, "make_logits_step", step)

    def make(**settings: object) -> Parser:
        return Parser(nano.config, nano.params, nano.batch_stats, TestTime(**settings))

    return make


def face(index: int, size: tuple[int, int]) -> np.ndarray:
    """A drawn face stretched to (height, width)."""
    picture = Image.fromarray(draw_face(0, index, 64)[0])
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, C] -> [*size, C] bilinearly, in float64."""
    rows, columns = (resize_matrix(i, o) for i, o in zip(x.shape, size, strict=False))
    return np.einsum("Yy,Xx,yxc->YXc", rows, columns, x.astype(np.float64))


def require_highest(mask: np.ndarray, probabilities: np.ndarray) -> None:
    """Every pixel has the class of the highest of [H, W, C], but for rounding."""
    chosen = np.take_along_axis(probabilities, mask[..., None].astype(int), 2)[..., 0]
    assert (probabilities.max(2) - chosen).max() <= 1e-5
    assert len(np.unique(mask)) >= 4  # the noise is not one class everywhere


# Smaller than the logits, odd, exactly a tile, one over, tiles in both directions.
@pytest.mark.parametrize("size", [(5, 3), (37, 91), (256, 256), (257, 40), (300, 530)])
def test_tiles_equal_the_picture_as_a_whole(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(16, 12, 19)).astype(np.float32)
    level = Level(jnp.asarray(logits)[None, None, None], (0,), (0,), (64, 48), (64, 48))
    parsing = Parsing(Picture("none", [], size), [level])
    assert parsing.mask.shape == size and parsing.mask.dtype == np.uint8
    whole = predict_label(logits, np.array(size, np.int32), size)
    assert (parsing.mask == whole).mean() > 0.9999  # else equal logits but for rounding
    expected = softmax(resized(logits, size))
    require_highest(parsing.mask, expected)
    found = parsing.probability("hair")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[..., NAMES.index("hair")], atol=1e-6)
    np.testing.assert_allclose(parsing.confidence(), expected.max(2), atol=1e-6)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (64, 64, 48, (0,)),
        (65, 64, 48, (0, 1)),
        (160, 64, 48, (0, 48, 96)),
        (161, 64, 48, (0, 33, 64, 97)),  # three windows would leave the middle one off centre
        (128, 64, 64, (0, 64)),
    ],
)
def test_windows_reach_both_ends(
    length: int, window: int, stride: int, starts: tuple[int, ...]
) -> None:
    assert window_starts(length, window, stride) == starts
    gaps = np.diff(starts)
    assert (gaps <= stride).all() and starts == tuple(length - window - x for x in starts[::-1])


def test_a_window_on_everything_is_plain_resizing() -> None:
    for in_size, out_size in [(16, 5), (16, 64), (7, 100)]:
        matrix = window_matrix(in_size, 0, 96, 96, out_size)
        np.testing.assert_allclose(matrix, resize_matrix(in_size, out_size), atol=1e-12)


def test_windows_are_averaged_where_they_overlap() -> None:
    """Three windows of 8 pixels on a picture of 8 × 16, each sure of a class of its own."""
    logits = np.full((1, 3, 1, 2, 2, 19), -20, np.float32)
    for column, index in enumerate((1, 13, 17)):
        logits[0, column, ..., index] = 20
    level = Level(jnp.asarray(logits), (0,), (0, 4, 8), (8, 8), (8, 16))
    parsing = Parsing(Picture("none", [], (8, 16)), [level])
    shares = [parsing.probability(NAMES[index])[3] for index in (1, 13, 17)]
    np.testing.assert_allclose(shares[0], [1] * 4 + [0.5] * 4 + [0] * 8, atol=1e-6)
    np.testing.assert_allclose(shares[1], [0] * 4 + [0.5] * 8 + [0] * 4, atol=1e-6)
    np.testing.assert_allclose(shares[2], shares[0][::-1], atol=1e-6)


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
                probabilities = probabilities[:, ::-1][..., MIRRORED]
            expected += probabilities / 4
    require_highest(result.mask, expected)
    for name in ("skin", "left_eye", "right_brow"):
        wanted = expected[..., NAMES.index(name)]
        np.testing.assert_allclose(result.probability(name), wanted, atol=2e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scales": (0.5, 1.0)},
        {"window": 64},
        {"window": 64, "stride": 40, "scales": (1.0, 1.5)},
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (101, 257)])
def test_a_mirrored_picture_gives_the_mirrored_mask(
    make_parser: Callable, settings: dict, size: tuple[int, int]
) -> None:
    parser = make_parser(flip=True, **settings)
    image = face(0, size)
    result, mirrored = parser([image, image[:, ::-1]])
    np.testing.assert_array_equal(mirrored.mask, MIRRORED[result.mask[:, ::-1]])
    assert {4, 5, 6, 7, 8, 9} & set(np.unique(result.mask))  # a class with sides is there
    plain = make_parser(**settings)
    differs = plain(image[:, ::-1]).mask != MIRRORED[plain(image).mask[:, ::-1]]
    assert differs.any()  # it is the flip's doing


def test_large_pictures_are_cut_into_windows(nano: Nano, make_parser: Callable) -> None:
    image = face(5, (64, 112))
    result = make_parser(window=64, stride=48)(image)
    expected = np.zeros((64, 112, 19))
    for start in (0, 48):
        logits = nano.network(np.stack([image[:, start : start + 64]] * 4))[0]
        expected[:, start : start + 64] += softmax(resized(np.asarray(logits), (64, 64)))
    expected /= expected.sum(2, keepdims=True)
    require_highest(result.mask, expected)
    np.testing.assert_allclose(result.probability("hair"), expected[..., 13], atol=1e-5)
    small = make_parser(window=64)(face(5, (20, 30)))  # enlarged to 64 × 96
    assert small.mask.shape == (20, 30) and small.levels[0].size == (64, 96)


def test_pictures_of_all_sizes_share_programs(make_parser: Callable) -> None:
    whole, windows = make_parser(), make_parser(window=64, stride=64)
    whole(face(0, (601, 599))), windows(face(0, (601, 599)))
    programs = tile_classes._cache_size()
    for size in [(701, 530), (599, 642)]:
        whole(face(0, size)), windows(face(0, size))
    # A tile is reached by 4 to 6 of these small windows, in either direction.
    assert tile_classes._cache_size() <= programs + 8


def test_paths_pictures_and_arrays_are_the_same(make_parser: Callable, tmp_path: Path) -> None:
    parser = make_parser()
    image = face(1, (50, 70))
    path = tmp_path / "face.png"
    write_image(path, image)
    results = parser([path, str(path), Image.open(path), image, Image.fromarray(image)])
    for result in results:
        np.testing.assert_array_equal(result.mask, results[0].mask)
    alone = parser(path)
    assert alone.mask.shape == (50, 70) and alone.mask.dtype == np.uint8
    np.testing.assert_array_equal(alone.mask, results[0].mask)


def test_what_a_parsing_tells(make_parser: Callable, tmp_path: Path) -> None:
    image = face(2, (40, 60))
    result = make_parser()(image)
    area = result.area()
    assert sum(area.values()) == pytest.approx(1)
    assert area[NAMES[result.mask[0, 0]]] == (result.mask == result.mask[0, 0]).mean()
    assert set(area) == {NAMES[index] for index in np.unique(result.mask)}
    total = sum(result.probability(name) for name in NAMES)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(result.overlay())[:40, :60], blend(image, result.mask))
    result.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), result.mask)
    with refuses("mask.jpg"):
        result.save(tmp_path / "mask.jpg")
    with refuses("beard", "background, skin"):
        result.probability("beard")


def test_loads_what_a_weights_file_says(nano: Nano, make_parser: Callable) -> None:
    parser = jaxparse.Parser.load(nano.weights)
    assert (parser.image_size, parser.batch_size) == (64, 4)
    image = face(4, (64, 64))
    np.testing.assert_array_equal(parser(image).mask, make_parser()(image).mask)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 [4, 4, 3]"),
        (np.zeros((4, 4, 4), np.uint8), "uint8 [4, 4, 4]"),
        (np.zeros(4, np.uint8), "uint8 [4]"),
    ],
)
def test_arrays_of_other_kinds_are_refused(
    make_parser: Callable, array: np.ndarray, words: str
) -> None:
    with refuses(words, "uint8 [height, width, 3]"):
        make_parser()(array)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scales": ()}, ("()", "0.1", "4")),
        ({"scales": (1.0, 0.0)}, ("(1.0, 0.0)", "0.1", "4")),
        ({"window": 16}, ("window is 16", "32")),
        ({"window": 64, "stride": 65}, ("stride is 65", "64")),
        ({"stride": 10}, ("stride is 10", "0")),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: tuple) -> None:
    with refuses(*words):
        TestTime(**settings)


REPOSITORY = Path(__file__).parent.parent.parent
EXAMPLES = [
    *("README.md", "jaxparse/parsing/parser.py"),
    *(f"docs/{p.name}" for p in (REPOSITORY / "docs").glob("*.md") if ">>> " in p.read_text()),
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_in_the_documentation(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "weights.safetensors").write_bytes(Path(nano.weights).read_bytes())
    write_image(tmp_path / "photo.jpg", face(0, (48, 64)))
    monkeypatch.chdir(tmp_path)
    path = REPOSITORY / text
    flags = doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(path), module_relative=False, optionflags=flags)
    assert result.failed == 0 and result.attempted >= 5
    assert read_label(tmp_path / "mask.png").shape == (48, 64)
