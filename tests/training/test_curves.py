from pathlib import Path

import numpy as np
import pytest

from jaxparse.training.curves import centred_mean, describe, draw
from jaxparse.training.logs import COLOURS, Run
from tests.logged import ALL, EVALUATIONS, TRAIN, Rows, run_of


def texts(run: Run) -> list[str]:
    """What the legend and the panels say."""
    figure = draw([run])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    return legend + [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("name", ["_a", "a$b$", "$x_{$"])
def test_names_of_runs_are_no_formulas(name: str) -> None:
    figure = draw([run_of(ALL, name)])
    (text,) = figure.legends[0].get_texts()
    assert text.get_text().startswith(f"{name}: best") and not text.get_parse_math()


def test_centred_mean_by_hand() -> None:
    steps, values = np.array([0, 10, 20, 40, 50]), np.array([1.0, 4, 7, 10, 30])
    # Within 10 steps: 0 10 | 0 10 20 | 10 20 | 40 50 | 40 50.
    assert centred_mean(steps, values, 20).tolist() == [2.5, 4, 5.5, 20, 20]
    assert centred_mean(steps, values, 0).tolist() == values.tolist()
    assert centred_mean(steps, values, 19).tolist() == values.tolist()


def test_figure_of_two_runs() -> None:
    other = [row | {"val/mIoU": 0.6} if "val/mIoU" in row else row for row in ALL]
    runs = [run_of(ALL), run_of(other, "b", COLOURS[1])]
    loss, rate, miou, *_, classes = draw(runs, smooth=20).axes
    smoothed, raw = loss.lines[:2]
    assert raw.get_ydata().tolist() == pytest.approx([8 / step for step in range(10, 110, 10)])
    assert smoothed.get_ydata()[1] == pytest.approx((8 / 10 + 8 / 20 + 8 / 30) / 3)
    assert rate.lines[0].get_ydata()[0] == pytest.approx(1e-4)
    assert miou.lines[0].get_xydata().tolist() == [[40, 50], [80, 75], [100, 75]]
    assert [line.get_color() for line in miou.lines] == list(COLOURS[:2])
    heights = [bar.get_height() for bar in classes.patches]
    assert len(heights) == 2 * 19
    assert (heights[0], heights[19]) == (25, 50)  # the second's first evaluation is its best
    assert describe(runs[1]) == "b: best mIoU 60.00 % at step 40"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], ["a: no evaluation yet", *["nothing logged yet"] * 2, *["no evaluation yet"] * 4]),
        (TRAIN[:1], ["a: no evaluation yet", *["no evaluation yet"] * 4]),
        (
            TRAIN + EVALUATIONS,
            [
                "a: best mIoU 75.00 % at step 80; no IoU per class logged",
                "no IoU per class logged",
            ],
        ),
        (ALL, ["a: best mIoU 75.00 % at step 80"]),
    ],
    ids=["empty", "one row", "log without classes", "whole"],
)
def test_panels_say_what_is_missing(rows: Rows, expected: list[str], tmp_path: Path) -> None:
    run = run_of(rows)
    assert texts(run) == expected
    draw([run]).savefig(tmp_path / "x.png")  # an empty panel causes no warning


def test_run_without_classes_leaves_no_gap_between_bars() -> None:
    runs = [run_of(ALL), run_of(TRAIN + EVALUATIONS, "b", COLOURS[1])]
    classes = draw(runs).axes[-1]
    assert len(classes.patches) == 19
    assert classes.patches[0].get_center()[0] == pytest.approx(0)
