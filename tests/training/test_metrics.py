import numpy as np

from jaxparse.training.metrics import confusion_matrix
from tests.masks import matrix


def test_confusion_matrix_counts_by_hand() -> None:
    label = np.array([[0, 0, 1, 255], [18, 18, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [18, 0, 1, 18]], np.uint8)
    confusion = np.asarray(confusion_matrix(label, prediction, 19))
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
    np.testing.assert_array_equal(confusion_matrix(label, prediction, 19), wanted)
