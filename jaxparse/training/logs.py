"""The log of a run: metrics.jsonl, one object per line, and the same as TensorBoard events."""

import json
import math
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxparse.files import atomic_path, reason, writing

METRICS = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"
IOU = "IoU/"  # before the names of classes


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, oldest first, each with its `step`.

    Skips incomplete lines of killed or still running processes, lines without a step, and values
    that are neither numbers nor null; null for what is no finite number.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for line in lines if (row := _parse(line))]


def _parse(line: str) -> dict[str, float | str | None] | None:
    try:
        row = json.loads(line)
    except (RecursionError, ValueError):
        return None
    if not isinstance(row, dict):
        return None
    step = row.get("step")
    if type(step) is not int or not 0 <= step < 2**31:
        return None
    known = {
        name: value
        for name, value in row.items()
        if type(value) in ((str,) if name == "note" else (int, float, type(None)))
    }
    return {name: None if _is_nan(value) else value for name, value in known.items()}


def _is_nan(value: float | str | None) -> bool:
    """Whether there is no number, as where nothing could be scored, or none that a float holds."""
    return isinstance(value, int | float) and not abs(value) <= sys.float_info.max


class Events:
    """TensorBoard's event files in a folder. Raises ImportError if a package of it is missing."""

    def __init__(self, folder: Path) -> None:
        # Imported here: it takes seconds, and other processes of a run do without.
        import tensorboard.summary  # noqa: F401  tf.summary.scalar is tensorboard's
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._writer.as_default():
            for name, value in values.items():
                self._summary.scalar(name, value, step=step)
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MetricsLog:
    """Appends rows to metrics.jsonl in `workdir` and to TensorBoard.

    A run that resumes after `step` drops the rows after it: they will be written again. `rows` are
    the rows so far, oldest first, each with its `step`. Only the main process writes files.

    `notices` are lines for the user: that TensorBoard gets nothing, where its packages are missing.
    """

    def __init__(self, workdir: str | Path, step: int, is_main: bool = True) -> None:
        self.path = Path(workdir) / METRICS
        rows = read_rows(self.path) if self.path.exists() else []
        self.rows = [row for row in rows if row["step"] <= step]
        self.is_main = is_main
        self.notices: list[str] = []
        self._events: Events | None = None
        if is_main:
            self._open(Path(workdir) / TENSORBOARD_DIR)

    def _open(self, tensorboard: Path) -> None:
        with self._writing(), atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self.path.open("a")
        try:
            self._events = Events(tensorboard)
        except ImportError as error:
            self.notices.append(
                f"TensorBoard events are not written ({reason(error)}); to have them: "
                "pip install tensorflow-cpu tensorboard"
            )

    def write(self, step: int, prefix: str, values: dict[str, float]) -> None:
        """Adds a row {"step", prefix/name: value, ...}; null for what is not a finite number."""
        values = {f"{prefix}/{name}": value for name, value in values.items()}
        missing = {name: None for name, value in values.items() if _is_nan(value)}
        self._append({"step": step} | values | missing)
        if self._events:
            with self._writing():
                self._events.write(step, {k: v for k, v in values.items() if k not in missing})

    def note(self, step: int, text: str) -> None:
        """Adds a row {"step", "note": text}."""
        self._append({"step": step, "note": text})

    def _append(self, row: dict[str, float | str | None]) -> None:
        self.rows.append(row)
        if self.is_main:
            with self._writing():
                self._file.write(json.dumps(row, allow_nan=False) + "\n")
                self._file.flush()

    def _writing(self) -> AbstractContextManager[None]:
        return writing("the log", self.path.parent, "its last checkpoint is kept")

    def has(self, name: str, step: int) -> bool:
        """Whether `name` was written for `step`."""
        return any(row["step"] == step and name in row for row in self.rows)

    def best(self, name: str) -> float:
        """The highest value of `name` so far, -inf if there is none."""
        values = [row[name] for row in self.rows if row.get(name) is not None]
        return max(values, default=-math.inf)

    def close(self) -> None:
        if self.is_main:
            with suppress(OSError):  # every row was flushed; a failed one was reported
                self._file.close()
        if self._events:
            self._events.close()


# Okabe and Ito 2008, "Color Universal Design": told apart by colour-blind people. Without the
# yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Run(NamedTuple):
    """A run's name and colour in the figure, and its rows as `logs.read_rows` gives them."""

    label: str
    colour: str
    rows: list[dict[str, float]]


def read_runs(folders: list[Path]) -> list[Run]:
    """Labels are the folders' names, paths as given where names are the same.

    Raises ValueError for a folder that is not a run's, or more folders than colours.
    """
    if not 0 < len(folders) <= len(COLOURS):
        raise ValueError(f"{len(folders)} runs are given; give the folders of 1 to {len(COLOURS)}")
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give a run's, which holds {METRICS}")
        if not (folder / METRICS).is_file():
            raise ValueError(
                f"{folder} has no {METRICS}; give the folder of a run that jaxparse.train made"
            )
    names = [folder.resolve().name for folder in folders]
    labels = (str(f) if names.count(n) > 1 else n for f, n in zip(folders, names, strict=True))
    return list(map(Run, labels, COLOURS, (read_rows(folder / METRICS) for folder in folders)))


def series(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, ascending, and finite values [N] of `name`; of rows of the same step the last."""
    # As floats: numpy makes objects of ints beyond 64 bits.
    values = {row["step"]: float(row[name]) for row in run.rows if row.get(name) is not None}
    pairs = sorted(pair for pair in values.items() if np.isfinite(pair[1]))
    return tuple(np.array(pairs, np.float64).reshape(-1, 2).T)


def best_row(run: Run) -> dict[str, float]:
    """All that was logged at the evaluation with the highest mIoU, the first if several are equal.

    Empty before the first evaluation.
    """
    steps, values = series(run, "val/mIoU")
    if not len(steps):
        return {}
    rows = (row for row in run.rows if row["step"] == steps[values.argmax()])
    return {k: value for row in rows for k, value in row.items() if value is not None}


def class_names(runs: list[Run]) -> list[str]:
    """The classes whose IoU was logged in any row of the runs, in the order of their first."""
    names = (name for run in runs for row in run.rows for name in row)
    return list(dict.fromkeys(name.removeprefix(IOU) for name in names if name.startswith(IOU)))


def class_ious(row: dict[str, float], names: Sequence[str]) -> np.ndarray:
    """IoU of these classes, [C] in percent; NaN for those that were absent, or not logged."""
    return 100 * np.array([row.get(f"{IOU}{name}") for name in names], np.float64)
