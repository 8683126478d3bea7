import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import cbook
from PIL import Image

from jaxparse.data.drawn.picture import draw_face
from jaxparse.parsing.alignment import align, side
from jaxparse.parsing.faces import Detector, describe, load_detector
from tests.refusal import refuses


@pytest.fixture(scope="module")
def detector() -> Detector:
    pytest.importorskip("mtcnn", reason="mtcnn is not installed: pip install 'jaxparse[faces]'")
    return load_detector()


@pytest.fixture(scope="module")
def hopper() -> Image.Image:
    """Grace Hopper, 512 × 600, in the public domain, from matplotlib's sample data."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")


# Of her, by eye: two pupils, tip of the nose, corners of the mouth; x and y.
POINTS = np.array([(220, 190), (308, 186), (268, 237), (231, 277), (304, 273)])


def compose(hopper: Image.Image, places: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of 1000 × 700 with her at (centre, scale, degrees), and the points of each."""
    photo, points = Image.new("RGB", (1000, 700), (90, 110, 120)), []
    for centre, scale, degrees in places:
        angle = np.deg2rad(degrees)  # counterclockwise, as Pillow turns
        turn = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
        points.append((POINTS - (256, 300)) @ turn + centre)
        small = hopper.resize((int(512 * scale), int(600 * scale))).convert("RGBA")
        small = small.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        corner = [round(c - length / 2) for c, length in zip(centre, small.size, strict=True)]
        photo.paste(small, tuple(corner), small)
    return np.asarray(photo), np.array(points)


@pytest.mark.full
def test_faces_of_several_sizes_and_angles(detector: Detector, hopper: Image.Image) -> None:
    """Mean error of the points, in distances of the eyes, as MTCNN's paper measures it."""
    places = [((260, 380), 1, 0), ((640, 200), 0.5, 25), ((860, 480), 0.3, -30)]
    photo, expected = compose(hopper, places)
    faces = sorted(detector(photo), key=lambda face: -side(align(face.points)))
    assert len(faces) == 3
    for face, points in zip(faces, expected, strict=True):
        eyes = np.hypot(*(points[1] - points[0]))
        assert np.hypot(*(face.points - points).T).mean() < 0.1 * eyes
        left, top, right, bottom = face.box
        assert ((face.points > (left, top)) & (face.points < (right, bottom))).all()
        assert 0.8 < face.score <= 1


@pytest.mark.full
def test_large_photographs_are_shrunk_and_points_are_in_their_pixels(
    detector: Detector, hopper: Image.Image
) -> None:
    [face] = detector(np.asarray(hopper.resize((2048, 2400))))
    assert np.hypot(*(face.points - 4 * POINTS).T).mean() < 0.1 * 4 * 88
    assert np.abs(describe(face)["points"] - face.points).max() <= 0.005


@pytest.mark.full
def test_the_mirror_image_has_the_same_points_left_first(
    detector: Detector, hopper: Image.Image
) -> None:
    [face] = detector(np.asarray(hopper)[:, ::-1])
    expected = (POINTS * (-1, 1) + (512, 0))[[1, 0, 2, 4, 3]]
    assert np.hypot(*(face.points - expected).T).mean() < 0.1 * 88


@pytest.mark.full
def test_drawn_faces_are_found(detector: Detector) -> None:
    assert all(len(detector(draw_face(0, index, 128)[0])) == 1 for index in range(4))


@pytest.mark.full
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (12, 12), (30, 40), (200, 200)])
def test_pictures_without_a_face(detector: Detector, size: tuple[int, int]) -> None:
    assert detector(np.zeros((*size, 3), np.uint8)) == []


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    with refuses('pip install "jaxparse[faces]"'):
        load_detector()


@pytest.mark.full
def test_weights_come_from_the_package_alone(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mtcnn itself would unpickle a file of that name in the current folder."""
    (tmp_path / "pnet.lz4").write_bytes(b"not weights")
    monkeypatch.chdir(tmp_path)
    load_detector()
