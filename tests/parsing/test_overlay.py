import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK, parse_classes
from jaxparse.parsing.overlay import (
    ERROR,
    blend,
    colourise,
    contact_sheet,
    legend,
    mark_errors,
    overlay,
)


def classes_in(strip: np.ndarray) -> set[int]:
    """Those whose colours a legend shows; without 0, which is black, as is the text."""
    return {index for index in range(1, 19) if (strip == CELEBAMASK.palette[index]).all(-1).any()}


def test_colourise_takes_the_palette_and_white_for_ignored() -> None:
    label = np.array([[*range(19), 255]], np.uint8)
    colours = colourise(label, CELEBAMASK)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[0, :19], CELEBAMASK.palette)
    np.testing.assert_array_equal(colours[0, 19], (255, 255, 255))


def test_colours_hide_the_picture_by_their_opacity() -> None:
    image = np.full((1, 2, 3), (100, 20, 250), np.uint8)
    label = np.ones((1, 2), np.uint8)  # (204, 0, 0)
    for opacity, wanted in ((0, (100, 20, 250)), (0.25, (126, 15, 187)), (1, (204, 0, 0))):
        blended = blend(image, label, CELEBAMASK, opacity)
        assert np.abs(blended.astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(blend(image, label, CELEBAMASK, 1), image * 0 + (204, 0, 0))


@pytest.mark.parametrize("opacity", [0, 0.4, 1])
def test_contours_lie_on_the_classes_and_leave_the_background(opacity: float) -> None:
    image = np.random.default_rng(0).integers(0, 200, (40, 60, 3), np.uint8)
    label = np.zeros((40, 60), np.uint8)
    label[10:30, 20:40], label[15:20, 25:30] = 1, 2
    blended = blend(image, label, CELEBAMASK, opacity)
    np.testing.assert_array_equal(blended[label == 0], image[label == 0])
    white = (blended == 255).all(-1)
    skin = white[10:30, 20:40]
    assert skin[0].all() and skin[-1].all() and skin[:, 0].all() and skin[:, -1].all()
    assert not white[22:29, 21:39].any()  # within a class
    for row in (15, 17, 19):  # on both sides of the nose
        assert white[row, [24, 29]].all() and not white[row, [23, 30]].any()


def test_contours_grow_with_the_picture() -> None:
    label = np.zeros((1600, 1600), np.uint8)
    label[:, 800:] = 1
    white = (blend(np.zeros((1600, 1600, 3), np.uint8), label, CELEBAMASK) == 255).all(-1)
    assert np.flatnonzero(white[7]).tolist() == [800, 801, 802, 803]


@pytest.mark.parametrize("name", ["background", "Other", "bg"])
def test_the_background_is_known_by_its_name(name: str) -> None:
    classes = parse_classes({"names": ["hair", "skin", name]}, "own", "own.json")
    image = np.full((4, 3, 3), 90, np.uint8)
    label = np.repeat(np.array([[0, 1, 2]], np.uint8), 4, 0)
    blended = blend(image, label, classes)
    assert (blended[:, 2] == 90).all() and (blended[:, :2] != 90).any(-1).all()
    strip = overlay(image, label, classes)[:, 3:]
    assert not (strip == classes.palette[2]).all(-1).any()


def test_errors_are_marked_on_the_darkened_picture() -> None:
    image = np.array([[(30, 60, 90), (255, 255, 255), (0, 0, 9)]], np.uint8)
    label, prediction = np.array([[1, 1, 255]], np.uint8), np.array([[1, 2, 1]], np.uint8)
    marked = mark_errors(image, label, prediction)
    np.testing.assert_array_equal(marked, [[(30, 30, 30), ERROR, (1, 1, 1)]])


@pytest.mark.parametrize("shape", [(37, 91), (20, 4), (1200, 300)])
def test_overlay_holds_the_blended_picture_and_a_legend(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    label = np.full(shape, 3, np.uint8)
    label[:5], label[-5:] = 13, 255
    height, width = shape
    result = overlay(image, label, CELEBAMASK)
    np.testing.assert_array_equal(result[:height, :width], blend(image, label, CELEBAMASK))
    assert (result[height:, :width] == 255).all()
    assert classes_in(result[:, width:]) == {3, 13}


@pytest.mark.parametrize("height", [1, 64, 512, 3000])
def test_legend_fits_all_classes_and_is_readable(height: int) -> None:
    strip = legend(range(19), height, CELEBAMASK)
    assert len(strip) >= height
    end_of_last = 0
    for index in range(1, 19):  # 0 is black, as is the text
        rows, columns = np.nonzero((strip == CELEBAMASK.palette[index]).all(-1))
        first, end = rows.min(), rows.max() + 1
        assert first > end_of_last  # one below the other
        text = strip[first:end, columns.max() + 2 :]
        inked = np.flatnonzero((text < 128).any((1, 2)))
        assert np.ptp(inked) + 1 >= 7  # high enough to read
        assert (strip[first:end, -1] == 255).all()  # ends before the edge
        end_of_last = end


def test_legend_gives_each_class_its_own_text() -> None:
    texts = {legend([index], 18, CELEBAMASK)[:, 18:].tobytes() for index in range(19)}
    assert len(texts) == len(CELEBAMASK.names)


def test_legend_of_no_class_is_white() -> None:
    result = overlay(np.zeros((9, 9, 3), np.uint8), np.full((9, 9), 255, np.uint8), CELEBAMASK)
    assert (result[:, 9:] == 255).all()


def test_contact_sheet_places_pictures_and_masks_in_a_grid() -> None:
    images = [np.full((64, 64, 3), 10 * i, np.uint8) for i in range(2)]
    masks = [np.full((64, 64), 1, np.uint8), np.full((32, 64), 17, np.uint8)]
    sheet = contact_sheet({"picture": images, "truth": masks}, side=64, classes=CELEBAMASK)
    titles, first, second = np.split(sheet, [len(sheet) - 128, len(sheet) - 64])
    assert (first[:, :64] == 0).all() and (second[:, :64] == 10).all()
    assert (first[:, 64:128] == CELEBAMASK.palette[1]).all()
    assert (second[16:48, 64:128] == CELEBAMASK.palette[17]).all()
    assert (second[:16, 64:128] == 255).all()  # a mask of another shape is not stretched
    for column in (titles[:, :64], titles[:, 64:128]):
        assert (column < 128).any()
    assert classes_in(sheet[:, 128:]) == {1, 17}


def test_contact_sheet_refuses_columns_of_unequal_length() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError):
        contact_sheet({"a": [image, image], "b": [image]}, side=64, classes=CELEBAMASK)
