"""What a run writes down: metrics.jsonl, one object a line, and TensorBoard events of the same."""

import json
import os
from pathlib import Path

from jaxparse.files import atomic_path

METRICS = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, oldest first, each with its `step`.

    Skips lines that are no row: what a killed process left unfinished, or a running one has yet to.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for line in lines if (row := _parse(line))]


def _parse(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


class MetricsLog:
    """Appends rows to metrics.jsonl in `workdir` and to TensorBoard.

    A run that goes on from `step` drops the rows after it: they will be made again. `rows` are
    the rows so far, oldest first, each with its `step`. Only the main process writes files.
    """

    def __init__(self, workdir: str | Path, step: int, is_main: bool = True) -> None:
        self.path = Path(workdir) / METRICS
        rows = read_rows(self.path) if self.path.exists() else []
        self.rows = [row for row in rows if row["step"] <= step]
        self.is_main = is_main
        if is_main:
            self._open(str(Path(workdir) / TENSORBOARD_DIR))

    def _open(self, tensorboard: str) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self.path.open("a")
        # Imported here: it takes seconds, and other processes of a run do without.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nothing computes; saves a notice
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(tensorboard)

    def write(self, step: int, prefix: str, values: dict[str, float]) -> None:
        """Adds a row {"step", prefix/name: value, ...}."""
        values = {f"{prefix}/{name}": value for name, value in values.items()}
        row = {"step": step} | values
        self.rows.append(row)
        if not self.is_main:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        with self._writer.as_default():
            for name, value in values.items():
                self._summary.scalar(name, value, step=step)
        self._writer.flush()

    def best(self, name: str) -> float:
        """The highest value of `name` so far, -inf if there is none."""
        return max((row[name] for row in self.rows if name in row), default=float("-inf"))

    def close(self) -> None:
        if self.is_main:
            self._file.close()
            self._writer.close()
