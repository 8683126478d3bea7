import numpy as np

from jaxparse.classes import CELEBAMASK
from jaxparse.report.sections import draw_confusion, last_change, worst_errors
from tests.logged import ALL, CLASSES, EVALUATIONS, TRAIN, run_of


def test_change_between_the_last_two_evaluations() -> None:
    assert last_change(run_of(ALL), "val/mIoU") == 0
    assert last_change(run_of(ALL), "IoU/skin") == 0.125 - 0.25
    assert np.isnan(last_change(run_of(ALL), "IoU/hat"))
    for rows in (TRAIN + CLASSES[:1] + EVALUATIONS[:1], []):  # one evaluation or none
        assert np.isnan(last_change(run_of(rows), "val/mIoU"))
        assert np.isnan(last_change(run_of(rows), "IoU/skin"))


def test_errors_of_a_picture_in_words() -> None:
    confusion = np.zeros((19, 19), np.int64)
    confusion[1, 1], confusion[17, 17] = 60, 30
    assert worst_errors(confusion, CELEBAMASK) == "Nothing is wrong."
    confusion[1, 17] = 10
    assert worst_errors(confusion, CELEBAMASK) == (
        "Lowest IoU: neck 75.00, skin 85.71. Most pixels: skin taken for neck (10.00 %)."
    )


def test_confusion_is_in_percent_of_the_label() -> None:
    confusion = np.zeros((19, 19), np.int64)
    confusion[1, 1], confusion[1, 17], confusion[17, 17] = 3, 1, 1000
    figure = draw_confusion(confusion, CELEBAMASK)
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(1, 1): "75", (17, 1): "25", (17, 17): "100"}
