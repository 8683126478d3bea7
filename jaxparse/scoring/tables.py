"""Scores as people and programs read them: tables for the terminal, a dict for JSON."""

import math
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from jaxparse.scoring.scores import Scores


def percent(share: float) -> float | None:
    """0..1 -> 0..100, rounded to 4 decimals; None for NaN (not valid JSON)."""
    return None if math.isnan(share) else round(100 * float(share), 4)


def results(
    scores: Scores,
    joined: Scores | None = None,
    interval: tuple[float, float] | None = None,
    f1_of_pictures: float | None = None,
) -> dict[str, Any]:
    """Summary and per-class values in percent, ready for JSON; absent classes are None."""
    content = {name: percent(value) for name, value in scores.summary().items()}
    if interval:
        content["mIoU_interval"] = [percent(value) for value in interval]
    if f1_of_pictures is not None:
        content["F1_of_pictures"] = percent(f1_of_pictures)
    for title, values in scores.per_class().items():
        content[title] = dict(zip(scores.names, map(percent, values), strict=True))
    return content | ({"left_right_joined": results(joined)} if joined else {})


def scores_table(
    scores: Scores,
    joined: Scores | None = None,
    interval: tuple[float, float] | None = None,
    f1_of_pictures: float | None = None,
) -> Group:
    """Tables in mmsegmentation's layout: per class, then the summary, in percent."""
    columns, summary = scores.per_class(), scores.summary()
    classes = Table("Class", *columns, box=box.ASCII2)
    for name, *values in zip(scores.names, *columns.values(), strict=True):
        classes.add_row(name, *(f"{100 * value:.2f}" for value in values))
    means = Table(*summary, box=box.ASCII2)
    means.add_row(*(f"{100 * value:.2f}" for value in summary.values()))
    for column in (*classes.columns[1:], *means.columns):
        column.justify = "right"
    lines = []
    if interval:
        low, high = interval
        lines.append(f"mIoU, 95 % interval over pictures: {100 * low:.2f} to {100 * high:.2f}")
    if f1_of_pictures is not None:
        lines.append(f"F1, mean over pictures (CodaBench's ranking): {100 * f1_of_pictures:.2f}")
    if joined:
        figures = (f"{name} {100 * value:.2f}" for name, value in joined.means().items())
        lines.append(f"left and right joined ({len(joined.names)} classes): {'  '.join(figures)}")
    return Group(classes, means, *lines)
