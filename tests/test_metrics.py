import numpy as np
import pytest

from jaxparse.metrics import confusion_matrix, scores

NAN = float("nan")


def matrix(*cells: tuple[int, int, int]) -> np.ndarray:
    """[19, 19] of (label, prediction, pixels)."""
    confusion = np.zeros((19, 19), np.int64)
    for label, prediction, pixels in cells:
        confusion[label, prediction] = pixels
    return confusion


def test_confusion_matrix_counts_by_hand() -> None:
    label = np.array([[0, 0, 1, 255], [18, 18, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [18, 0, 1, 18]], np.uint8)
    confusion = np.asarray(confusion_matrix(label, prediction))
    assert confusion.dtype == np.int32
    wanted = matrix((0, 0, 1), (0, 1, 1), (1, 1, 2), (18, 18, 1), (18, 0, 1))
    np.testing.assert_array_equal(confusion, wanted)


def test_confusion_matrix_equals_counting_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 19, (2, 3, 37, 53)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    wanted = matrix()
    for row, column in zip(label.ravel(), prediction.ravel(), strict=True):
        if row != 255:
            wanted[row, column] += 1
    np.testing.assert_array_equal(confusion_matrix(label, prediction), wanted)


def test_scores_by_hand() -> None:
    # Class 0: 6 of 8 found, 2 of class 1 taken for it; class 2 only predicted; the others absent.
    result = scores(matrix((0, 0, 6), (0, 2, 2), (1, 1, 3), (1, 0, 2)))
    np.testing.assert_allclose(result.iou, [6 / 10, 3 / 5, 0] + [NAN] * 16)
    np.testing.assert_allclose(result.accuracy, [6 / 8, 3 / 5] + [NAN] * 17)
    assert result.pixel_accuracy == pytest.approx(9 / 13)
    assert result.mean_iou == pytest.approx(1.2 / 3)
    assert result.mean_accuracy == pytest.approx((0.75 + 0.6) / 2)
    assert result.means() == {
        "aAcc": result.pixel_accuracy,
        "mIoU": result.mean_iou,
        "mAcc": result.mean_accuracy,
    }


def test_scores_of_more_pixels_than_int32_holds() -> None:
    result = scores(matrix((0, 0, 3 * 2**31), (0, 1, 2**31), (1, 1, 2**32)))
    np.testing.assert_allclose(result.iou[:2], [3 / 4, 2 / 3])
    assert result.pixel_accuracy == pytest.approx(5 / 6)


def test_scores_of_nothing_are_nan() -> None:
    result = scores(matrix())
    assert np.isnan([*result.iou, *result.accuracy, *result.means().values()]).all()
