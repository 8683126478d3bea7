"""Pixel counts for two folders of masks, written by any tool."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from jaxparse.classes import CELEBAMASK, IGNORE_LABEL, Classes
from jaxparse.data.folders import match_masks
from jaxparse.data.masks import read_label
from jaxparse.files import read_ahead
from jaxparse.scoring.counts import Counts, count

T = TypeVar("T")


class PairError(ValueError):
    """Why a pair cannot be scored: the kind of fault, and a line that names the files."""

    def __init__(self, kind: str, line: str) -> None:
        super().__init__(line)
        self.kind = kind


def score_folders(
    predictions: Path,
    labels: Path,
    classes: Classes = CELEBAMASK,
    predictions_are: Classes | None = None,
    labels_are: Classes | None = None,
    track: Callable[[Iterator[T], int], Iterator[T]] = lambda items, total: items,
) -> dict[str, Counts]:
    """Name without suffix -> `Counts` of every mask in `predictions` against that in `labels`.

    `masks.read_label` says which masks are understood; they become those of `classes`, from other
    tables if these are given. Reads in threads; `track(items, number)` may show the progress. If
    masks have no partner, cannot be read, or have another size or other values, raises ValueError
    with the number of each kind and an example.
    """
    pairs, counts_of, faults = match_masks(predictions, labels), {}, []
    score = partial(_score_pair, classes=classes, tables=(predictions_are, labels_are))
    scored = read_ahead(score, pairs, os.cpu_count() or 1)
    for (prediction, _), counts in track(scored, len(pairs)):
        if isinstance(counts, PairError):
            faults.append(counts)
        else:
            counts_of[prediction.stem] = counts
    if faults:
        raise ValueError(f"{len(faults)} of {len(pairs)} pairs of masks are bad: {_list(faults)}")
    return counts_of


def _score_pair(
    pair: tuple[Path, Path], classes: Classes, tables: tuple[Classes | None, Classes | None]
) -> Counts:
    path, label_path = pair
    try:
        prediction = read_label(path, classes, tables[0], "--predictions-are")
        label = read_label(label_path, classes, tables[1])
    except ValueError as error:
        raise PairError("unreadable or with other values", str(error)) from error
    if prediction.shape != label.shape:
        (height, width), (label_height, label_width) = prediction.shape, label.shape
        raise PairError(
            "of unequal sizes",
            f"prediction {path} is {width}x{height} and its label {label_path} is "
            f"{label_width}x{label_height} (width x height); resize it (nearest neighbour)",
        )
    if prediction.max() == IGNORE_LABEL:
        line = f"prediction {path} holds {IGNORE_LABEL}; give every pixel a class of {classes}"
        raise PairError("with unpredicted pixels", line)
    return count(label, prediction, len(classes))


def _list(faults: list[PairError]) -> str:
    """How many there are of each kind, each with its first line."""
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(str(fault))
    return "; ".join(f"{len(lines)} {kind} ({lines[0]})" for kind, lines in kinds.items())
