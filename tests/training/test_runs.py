from pathlib import Path

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.training.logs import COLOURS, METRICS, best_row, class_ious, read_runs, series
from tests.logged import ALL, TRAIN, make_run, run_of
from tests.refusal import refuses


def test_series_is_in_order_and_finite_and_has_the_last_of_equal_steps() -> None:
    rows = [
        {"step": 5, "x": 1.0},
        {"step": 9, "x": 4.0},
        {"step": 5, "x": 2.0},
        {"step": 7, "y": 0},
        {"step": 8, "x": float("nan")},
        {"step": 2, "x": 3.0},
    ]
    steps, values = series(run_of(rows), "x")
    assert (steps.tolist(), values.tolist()) == ([2, 5, 9], [3, 2, 4])
    assert [array.shape for array in series(run_of(rows), "z")] == [(0,), (0,)]


def test_best_is_the_first_of_the_highest_with_its_classes() -> None:
    best = best_row(run_of(ALL))
    assert (best["step"], best["val/mIoU"], best["val/aAcc"]) == (80, 0.75, 0.9)
    ious = class_ious(best, CELEBAMASK.names)
    assert np.isnan(ious[CELEBAMASK.names.index("hat")])
    assert np.delete(ious, CELEBAMASK.names.index("hat")).tolist() == [25.0] * 18
    assert best_row(run_of(TRAIN)) == {}


def test_runs_have_their_rows_and_a_colour_each(tmp_path: Path) -> None:
    unfinished = '{"step": 110, "tra'
    folders = [make_run(tmp_path / "a", ALL), make_run(tmp_path / "b", TRAIN, unfinished)]
    first, second = read_runs(folders)
    assert (first.label, first.rows, second.label, second.rows) == ("a", ALL, "b", TRAIN)
    assert (first.colour, second.colour) == COLOURS[:2]
    assert len(set(COLOURS)) == len(COLOURS)


def test_same_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [make_run(Path(name), TRAIN) for name in ("x/run", "y/run", "z")]
    assert [run.label for run in read_runs(folders)] == ["x/run", "y/run", "z"]
    monkeypatch.chdir("z")
    assert read_runs([Path(".")])[0].label == "z"


def test_what_is_not_a_run_or_too_many_is_refused(tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", ALL)
    with refuses("0 runs", "1 to 7"):
        read_runs([])
    with refuses("8 runs", "1 to 7"):
        read_runs([good] * 8)
    with refuses(tmp_path / "missing", METRICS):
        read_runs([tmp_path / "missing"])
    with refuses(tmp_path, METRICS):
        read_runs([good, tmp_path])
