import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from jaxparse import plot as plot_module
from jaxparse.classes import NAMES
from jaxparse.plot import main, plot, read_changes
from jaxparse.training.curves import centred_mean, describe, draw
from jaxparse.training.logs import COLOURS, Run, best_row, class_ious, read_runs, series

TRAIN = [
    {"step": step, "train/loss": 8 / step, "train/learning_rate": 1e-3 / step}
    for step in range(10, 110, 10)
]
EVALUATIONS = [
    {"step": step, "val/mIoU": value, "val/mAcc": value, "val/aAcc": 0.9}
    for step, value in ((40, 0.5), (80, 0.75), (100, 0.75))
]
CLASSES = [
    {"step": step} | {f"IoU/{name}": value for name in NAMES if name != "hat"}
    for step, value in ((40, 0.5), (80, 0.25), (100, 0.125))
]
ALL = TRAIN + CLASSES + EVALUATIONS


def make_run(folder: Path, rows: list[dict[str, float]], tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + tail)
    return folder


def run_of(rows: list[dict[str, float]]) -> Run:
    return Run("a", COLOURS[0], rows)


def pixels(path: Path, colour: str) -> int:
    """How many pixels have exactly that colour."""
    with Image.open(path) as picture:
        values = np.asarray(picture.convert("RGB"))
    return int((values == np.rint(255 * np.array(to_rgb(colour)))).all(-1).sum())


def texts(runs: list[Run]) -> list[str]:
    """What the panels and the legend say."""
    figure = draw(runs)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    return legend + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_series_is_in_order_finite_and_of_equal_steps_the_last() -> None:
    rows = [
        {"step": 5, "x": 1.0},
        {"step": 9, "x": 4.0},
        {"step": 5, "x": 2.0},
        {"step": 7, "y": 0},
    ]
    rows += [{"step": 8, "x": float("nan")}, {"step": 2, "x": 3.0}]
    steps, values = series(run_of(rows), "x")
    assert (steps.tolist(), values.tolist()) == ([2, 5, 9], [3, 2, 4])
    assert [array.shape for array in series(run_of(rows), "z")] == [(0,), (0,)]


def test_centred_mean_by_hand() -> None:
    steps, values = np.array([0, 10, 20, 40, 50]), np.array([1.0, 4, 7, 10, 30])
    # Within 10 steps: 0 10 | 0 10 20 | 10 20 | 40 50 | 40 50.
    assert centred_mean(steps, values, 20).tolist() == [2.5, 4, 5.5, 20, 20]
    assert centred_mean(steps, values, 0).tolist() == values.tolist()
    assert centred_mean(steps, values, 19).tolist() == values.tolist()


def test_best_is_the_first_of_the_highest_with_its_classes() -> None:
    best = best_row(run_of(ALL))
    assert (best["step"], best["val/mIoU"], best["val/aAcc"]) == (80, 0.75, 0.9)
    ious = class_ious(best)
    assert np.isnan(ious[NAMES.index("hat")])
    assert np.delete(ious, NAMES.index("hat")).tolist() == [25.0] * 18
    assert best_row(run_of(TRAIN)) == {}


def test_figure_of_two_runs(tmp_path: Path) -> None:
    other = [row | {"val/mIoU": 0.6} if "val/mIoU" in row else row for row in ALL]
    runs = [make_run(tmp_path / "a", ALL), make_run(tmp_path / "b", other, '{"step": 110, "tra')]
    figure = draw(read_runs(runs), smooth=20)
    loss, rate, miou, *_, classes = figure.axes
    smoothed, raw = loss.lines[:2]
    assert raw.get_ydata().tolist() == pytest.approx([8 / step for step in range(10, 110, 10)])
    assert smoothed.get_ydata()[1] == pytest.approx((8 / 10 + 8 / 20 + 8 / 30) / 3)
    assert rate.lines[0].get_ydata()[0] == pytest.approx(1e-4)
    assert miou.lines[0].get_xydata().tolist() == [[40, 50], [80, 75], [100, 75]]
    heights = [bar.get_height() for bar in classes.patches]
    assert len(heights) == 2 * 19
    assert (heights[0], heights[19]) == (25, 50)  # the second's first evaluation is its best
    assert describe(read_runs(runs)[1]) == "b: best mIoU 60.00 % at step 40"

    output = tmp_path / "new" / "curves.png"
    plot(runs, output)
    with Image.open(output) as picture:
        assert picture.size == (1650, 1200)
    # Each run's bars fill 0.37 of the width of a panel of some 1,500 × 270, to 25 and 50 %.
    assert pixels(output, COLOURS[0]) == pytest.approx(0.37 * 0.25 * 1500 * 270, rel=0.15)
    assert pixels(output, COLOURS[1]) == pytest.approx(0.37 * 0.5 * 1500 * 270, rel=0.15)
    assert pixels(output, COLOURS[2]) == 0
    assert os.listdir(output.parent) == ["curves.png"]


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
def test_panels_say_what_is_missing(
    rows: list[dict[str, float]], expected: list[str], tmp_path: Path
) -> None:
    assert texts([run_of(rows)]) == expected
    draw([run_of(rows)]).savefig(tmp_path / "x.png")  # nothing to draw is no warning


def test_run_without_classes_leaves_no_gap_between_bars() -> None:
    runs = [run_of(ALL), Run("b", COLOURS[1], TRAIN + EVALUATIONS)]
    classes = draw(runs).axes[-1]
    assert len(classes.patches) == 19
    assert classes.patches[0].get_center()[0] == pytest.approx(0)


def test_same_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [make_run(Path(name), TRAIN) for name in ("x/run", "y/run", "z")]
    assert [run.label for run in read_runs(folders)] == ["x/run", "y/run", "z"]
    monkeypatch.chdir("z")
    assert read_runs([Path(".")])[0].label == "z"


def test_changes_are_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "a", [])
    lengths = []
    looks = itertools.count()

    def sleep(seconds: float) -> None:
        assert seconds == 7
        if (look := next(looks)) == 1:
            make_run(folder, TRAIN[:2], '{"step"')
        elif look == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(plot_module.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        lengths.extend(len(runs[0].rows) for runs in read_changes([folder], 7))
    assert (lengths, next(looks)) == ([0, 2], 4)

    looks = itertools.count()
    output = tmp_path / "live.png"
    plot([folder], output, live=7)  # Ctrl-C is its proper end
    assert pixels(output, COLOURS[0]) > 100


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".PNG"])
def test_suffix_is_the_format(suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"curves{suffix}"
    plot([make_run(tmp_path / "a", ALL)], output)
    start = {".pdf": b"%PDF", ".svg": b"<?xml", ".PNG": b"\x89PNG"}[suffix]
    assert output.read_bytes().startswith(start)


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(make_run(tmp_path / name, ALL)) for name in "ab"]
    output = str(tmp_path / "curves.png")
    monkeypatch.setattr(sys, "argv", ["plot", *runs, "--output", output, "--smooth", "0"])
    main()
    assert capsys.readouterr().out == f"written to {output}\n"


def test_what_users_can_mend(tmp_path: Path) -> None:
    good, folder = make_run(tmp_path / "good", ALL), tmp_path / "folder.png"
    folder.mkdir()
    empty = make_run(tmp_path / "empty", [], '{"step": 1')
    cases = [
        (([], Path("x.png")), r"0 runs .* 1 to 7"),
        (([good] * 8, Path("x.png")), r"8 runs .* 1 to 7"),
        (([tmp_path / "no"], Path("x.png")), r"no is not a folder.*metrics.jsonl"),
        (([folder], Path("x.png")), r"folder.png .*metrics.jsonl"),
        (([empty], Path("x.png")), r"empty/metrics.jsonl .*--live 30"),
        (([good], Path("x.xyz")), r"--output x.xyz .*.png, .pdf, .svg"),
        (([good], Path("x")), r"--output x .*.png"),
        (([good], folder), r"folder.png .*Is a directory"),
        (([good], good / "metrics.jsonl" / "x.png"), r"--output .*x.png"),
        (([good], Path("x.png"), -1.0), r"--smooth -1.0"),
        (([good], Path("x.png"), None, 0.0), r"--live 0.0"),
    ]
    for arguments, expected in cases:
        with pytest.raises(ValueError, match=expected):
            plot(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder.png", "good"]
