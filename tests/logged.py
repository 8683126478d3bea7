"""The metrics.jsonl of a run, for tests of what reads it."""

import json
from pathlib import Path

from jaxparse.classes import CELEBAMASK
from jaxparse.training.logs import COLOURS, METRICS, Run

Rows = list[dict[str, float]]

TRAIN: Rows = [
    {"step": step, "train/loss": 8 / step, "train/learning_rate": 1e-3 / step}
    for step in range(10, 110, 10)
]
EVALUATIONS: Rows = [
    {"step": step, "val/mIoU": value, "val/mAcc": value, "val/aAcc": 0.9}
    for step, value in ((40, 0.5), (80, 0.75), (100, 0.75))
]
CLASSES: Rows = [
    {"step": step, **{f"IoU/{name}": value for name in CELEBAMASK.names}, "IoU/hat": None}
    for step, value in ((40, 0.5), (80, 0.25), (100, 0.125))
]
ALL = TRAIN + CLASSES + EVALUATIONS


def make_run(folder: Path, rows: Rows, tail: str = "") -> Path:
    """Writes the rows, then `tail` as it is; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / METRICS).write_text(text + tail)
    return folder


def run_of(rows: Rows, label: str = "a", colour: str = COLOURS[0]) -> Run:
    return Run(label, colour, rows)
