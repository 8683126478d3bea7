import json
import sys
from pathlib import Path

import pytest

from jaxparse.training.logs import MetricsLog, best_row, read_rows, read_runs, series

# tf.summary's protobuf code, which this package does not call itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_and_best(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    assert log.best("val/mIoU") == float("-inf")
    log.write(1, "train", {"loss": 2.0})
    log.write(2, "val", {"mIoU": 0.5})
    log.write(4, "val", {"mIoU": 0.4})
    assert log.best("val/mIoU") == 0.5
    log.close()
    assert read(tmp_path)[:2] == [{"step": 1, "train/loss": 2.0}, {"step": 2, "val/mIoU": 0.5}]
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert not log.notices


@pytest.mark.parametrize("package", ["tensorflow", "tensorboard"])
def test_without_tensorboards_packages_the_rows_are_written_and_a_notice_says_how_to_get_them(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    log = MetricsLog(tmp_path, 0)
    log.write(1, "train", {"loss": 2.0})
    log.note(1, "a note")
    log.close()
    assert read(tmp_path) == [{"step": 1, "train/loss": 2.0}, {"step": 1, "note": "a note"}]
    assert not (tmp_path / "tensorboard").exists()
    (notice,) = log.notices
    assert package in notice
    assert "pip install tensorflow-cpu tensorboard" in notice


def test_resuming_drops_later_and_incomplete_rows(tmp_path: Path) -> None:
    whole = '{"step": 1, "train/loss": 2.0}\n{"step": 5, "train/loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 3, "trai')
    log = MetricsLog(tmp_path, 3)
    log.write(4, "train", {"loss": 1.5})
    log.close()
    assert [row["step"] for row in read(tmp_path)] == [1, 4]


def test_other_processes_keep_rows_and_write_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, is_main=False)
    assert not log.notices
    log.write(2, "val", {"mIoU": 0.5})
    log.close()
    assert log.best("val/mIoU") == 0.5
    assert not any(tmp_path.iterdir())


def test_what_is_no_number_is_null_and_never_the_best(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "val/mIoU": NaN}\n{"step": "3"}\n{"step": 4, "val/mIoU": []}\n')
    log = MetricsLog(tmp_path, 4)
    assert [row["step"] for row in log.rows] == [2, 4]
    assert log.best("val/mIoU") == float("-inf")
    log.write(5, "val", {"mIoU": float("nan"), "aAcc": 0.5})
    log.write(6, "val", {"mIoU": 0.25})
    assert log.has("val/mIoU", 5) and log.best("val/mIoU") == 0.25
    log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[-2] == {"step": 5, "val/mIoU": None, "val/aAcc": 0.5}
    assert "NaN" not in path.read_text()


def test_values_of_other_types_are_not_logged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = ('{"step": 4, "val/mIoU": 0.5, "val/aAcc": "high", "val/mAcc": true, "note": 3}',)
    rows += ('{"step": 4, "val/mIoU": null, "train/loss": 1' + "0" * 400 + "}",)
    rows += (
        '{"step": 4, "train/steps": 1' + "0" * 30 + "}",
        '{"step": -1}',
        '{"step": 2147483648}',
    )
    path.write_text("\n".join(rows))
    assert read_rows(path) == [
        {"step": 4, "val/mIoU": 0.5},
        {"step": 4, "val/mIoU": None, "train/loss": None},
        {"step": 4, "train/steps": 10**30},
    ]
    [run] = read_runs([tmp_path])
    assert best_row(run)["val/mIoU"] == 0.5
    assert series(run, "train/steps")[1].tolist() == [1e30]
