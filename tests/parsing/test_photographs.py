"""The Parser on whole photographs, with a detector that knows where the faces are."""

from collections.abc import Callable

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK, parse_classes
from jaxparse.parsing.alignment import align, crop
from jaxparse.parsing.faces import Face
from jaxparse.parsing.overlay import blend
from jaxparse.parsing.parser import Parser, TestTime
from jaxparse.parsing.results import Photograph
from tests.conftest import Nano
from tests.parsed import face, share_program

# Of a crop of 100 pixels at (0, 0): 4 * 25 across, upright.
POINTS = np.array([(37.5, 48), (62.5, 48), (50, 58), (42, 68), (58, 68)])
# Width of a photograph -> corner and side of the crops of its faces.
PLACES = {
    200: [(20, 10, 80), (90, 20, 100)],
    210: [(0, 0, 64)],
    220: [],
    230: [(-30, 40, 70), (60, 60, 90), (100, -20, 50), (170, 50, 66)],
}


def detect(image: np.ndarray) -> list[Face]:
    """The faces of a photograph, by its width."""
    assert image.dtype == np.uint8 and image.ndim == 3
    return [
        Face((x, y, x + side, y + side), POINTS * side / 100 + (x, y), 0.9)
        for x, y, side in PLACES[image.shape[1]]
    ]


@pytest.fixture
def make_parser(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parser]:
    share_program(monkeypatch, nano)

    def make(faces: bool = True, **settings: object) -> Parser:
        weights = nano.params, nano.batch_stats
        return Parser(nano.config, *weights, TestTime(**settings), None, faces, detect)

    return make


def photos() -> list[np.ndarray]:
    return [face(index, (150, width)) for index, width in enumerate(PLACES)]


def test_faces_of_several_photographs_share_batches(
    make_parser: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser, seen = make_parser(flip=True), []
    network = parser._network
    monkeypatch.setattr(parser, "_network", lambda x: (seen.append(x.shape), network(x))[1])
    results = list(parser.parse(map(parser.prepare, photos())))
    assert seen == [(4, 64, 64, 3)] * 4  # 2 + 1 + 0 + 4 faces and their mirror images
    assert [len(result.faces) for result in results] == [2, 1, 0, 4]
    for photo, result in zip(photos(), results, strict=True):
        [alone] = parser.parse([parser.prepare(photo)])
        np.testing.assert_array_equal(result.mask, alone.mask)
        assert result.mask.shape == photo.shape[:2] and result.mask.dtype == np.uint8


def test_the_nearest_face_is_the_first(make_parser: Callable) -> None:
    parser = make_parser()
    result = parser(photos()[0])
    assert isinstance(result, Photograph)
    assert [face.box[0] for face in result.faces] == [90, 20]
    described = result.describe()
    assert (described["width"], described["height"]) == (200, 150)
    first = described["faces"][0]
    assert first["box"] == [90, 20, 190, 120] and first["score"] == 0.9
    assert first["points"][0] == [127.5, 68] and len(first["points"]) == 5
    np.testing.assert_allclose(first["crop"], [(90, 20), (190, 20), (190, 120), (90, 120)])


def test_every_face_is_parsed_as_its_aligned_crop(make_parser: Callable) -> None:
    photo = photos()[3]
    result, plain = make_parser(flip=True)(photo), make_parser(faces=False, flip=True)
    faces = result.each_face()
    assert len(faces) == 4
    for found, one in zip(result.faces, faces, strict=True):
        cut = crop(photo, align(found.points), 64)
        np.testing.assert_array_equal(one.source, cut)
        np.testing.assert_array_equal(one.mask, plain([cut])[0].mask)


def test_a_photograph_is_parsed_as_a_picture_is(make_parser: Callable) -> None:
    photo = photos()[0]
    result = make_parser(flip=True)(photo)
    probabilities = np.stack([result.probability(name) for name in CELEBAMASK.names], -1)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    highest = np.take_along_axis(probabilities, result.mask[..., None].astype(int), 2)[..., 0]
    np.testing.assert_array_equal(highest, result.confidence())
    assert (probabilities.max(-1) - highest).max() < 1e-6
    outside = np.ones((150, 200), bool)
    for x, y, side in PLACES[200]:
        outside[y : y + side, x : x + side] = False
    assert (result.mask[outside] == 0).all() and (probabilities[outside, 0] == 1).all()
    assert len(np.unique(result.mask)) >= 4
    shown = np.asarray(result.overlay())[:150, :200]
    np.testing.assert_array_equal(shown, blend(photo, result.mask, CELEBAMASK))


def test_a_photograph_without_a_face_is_background(make_parser: Callable) -> None:
    result = make_parser()(photos()[2])
    assert result.faces == () and result.each_face() == []
    assert result.area() == {"background": 1} and (result.confidence() == 1).all()
    assert (result.probability("background") == 1).all()
    assert (result.probability("skin") == 0).all()
    assert result.describe()["faces"] == []


@pytest.mark.parametrize(("third", "outside"), [("BG", 2), ("other", 2), ("scenery", 255)])
def test_outside_of_faces_is_the_class_that_is_called_background(
    make_parser: Callable, third: str, outside: int
) -> None:
    """Not class 0; 255 where no class is called that."""
    places = {"skin": "face", "background": third, "*": "hair"}
    data = {"names": ["hair", "face", third], "from": {"celebamask": places}}
    parser = make_parser()
    parser.classes = parse_classes(data, "mine", "mine.json")
    result, empty = parser(photos()[1]), parser(photos()[2])
    assert (result.mask[:, 64:] == outside).all() and (empty.mask == outside).all()
    assert (result.mask[:64, :64] == 0).mean() > 0.9
    assert empty.area() == ({third: 1} if outside == 2 else {})
    for name, share in (("hair", 0), (third, outside == 2)):
        assert (result.region(name)[:, 64:] == 255 * share).all()
        assert (result.region(name, hard=True)[:, 64:] == 255 * share).all()
    assert result.overlay().height == 150
