import json

import numpy as np
import pytest
from rich.console import Console

from jaxparse.classes import CELEBAMASK
from jaxparse.scoring.scores import Scores, joined_scores
from jaxparse.scoring.tables import results, scores_table


def half_right() -> np.ndarray:
    confusion = np.zeros((19, 19), np.int64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1] = 1, 1, 2
    return confusion


def with_boundary() -> Scores:
    boundary = np.zeros((3, 19), np.int64)
    boundary[:, 0], boundary[:, 1] = (1, 2, 1), (1, 1, 4)
    return Scores.of(half_right(), boundary)


def test_scores_table_is_laid_out_as_in_mmsegmentation(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=80).print(scores_table(Scores.of(half_right())))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "+-------------+-------+--------+-------+"
    assert lines[1] == "| Class       |   IoU |    Acc |    F1 |"
    assert lines[3] == "| background  | 50.00 |  50.00 | 66.67 |"
    assert lines[4] == "| skin        | 66.67 | 100.00 | 80.00 |"
    assert lines[5] == "| nose        |   nan |    nan |   nan |"
    assert lines[-4:-1] == [
        "|  aAcc |  mIoU |  mAcc |   mF1 | mF1_without_background |",
        "+-------+-------+-------+-------+------------------------+",
        "| 75.00 | 58.33 | 75.00 | 73.33 |                  80.00 |",
    ]


def test_table_shows_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    table = scores_table(with_boundary(), joined_scores(half_right(), CELEBAMASK), (0.5, 0.62345))
    Console(width=80).print(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "| Class       |   IoU |    Acc |    F1 | BoundaryIoU |"
    assert lines[3] == "| background  | 50.00 |  50.00 | 66.67 |       50.00 |"
    assert lines[4] == "| skin        | 66.67 | 100.00 | 80.00 |       25.00 |"
    assert lines[-6].endswith("mF1_without_background | mBoundaryIoU |")
    assert lines[-4].endswith("|                  80.00 |        37.50 |")
    assert lines[-2] == "mIoU, 95 % interval over pictures: 50.00 to 62.34"
    assert lines[-1] == "left and right joined (16 classes): aAcc 75.00  mIoU 58.33  mAcc 75.00"


def test_results_are_percent_and_null_for_absent_classes() -> None:
    written = json.loads(json.dumps(results(Scores.of(half_right())), allow_nan=False))
    assert (written["aAcc"], written["mIoU"], written["mAcc"]) == (75, 58.3333, 75)
    assert (written["mF1"], written["mF1_without_background"]) == (73.3333, 80)
    assert written["IoU"]["skin"] == 66.6667 and written["F1"]["skin"] == 80
    assert written["IoU"]["nose"] is None and len(written["Acc"]) == 19
    assert "BoundaryIoU" not in written and "mIoU_interval" not in written


def test_results_hold_all_that_is_known() -> None:
    written = results(with_boundary(), joined_scores(half_right(), CELEBAMASK), (0.5, 0.62345))
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["mBoundaryIoU"] == 37.5
    assert written["BoundaryIoU"]["skin"] == 25 and written["BoundaryIoU"]["hat"] is None
    assert written["mIoU_interval"] == [50, 62.345]
    joined = written["left_right_joined"]
    assert joined["mIoU"] == 58.3333 and len(joined["IoU"]) == 16 and joined["IoU"]["eye"] is None
