"""Counts for folders of masks, whichever tool wrote them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jaxparse.classes import IGNORE_LABEL
from jaxparse.data.folders import match_masks
from jaxparse.data.images import read_label
from jaxparse.scoring.counts import Counts, count


class Fault(NamedTuple):
    """Why a pair cannot be scored: in what way, and the line on it."""

    kind: str
    line: str


def score_folders(
    predictions: Path,
    labels: Path,
    advance: Callable[[int, int], object] = lambda done, total: None,
    prediction_order: str = "official",
    label_order: str = "official",
) -> dict[str, Counts]:
    """Name without suffix -> `Counts` of every mask in `predictions` against that in `labels`.

    The masks may come from any tool: see `images.read_label` for what is understood; the orders are
    those in which they number the classes. Reads in threads; `advance(done, total)` is called after
    each pair. Raises ValueError if a mask has no partner, cannot be read, has another size or other
    values, with counts and examples.
    """
    pairs, found, faults = match_masks(predictions, labels), {}, []
    score = partial(_score_pair, orders=(prediction_order, label_order))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        results = zip(pairs, pool.map(score, pairs), strict=True)
        for done, (pair, result) in enumerate(results, start=1):
            if isinstance(result, Fault):
                faults.append(result)
            else:
                found[pair[0].stem] = result
            advance(done, len(pairs))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for the pictures in the queue
    if faults:
        raise ValueError(f"{len(faults)} of {len(pairs)} pairs of masks are bad: {_list(faults)}")
    return found


def _score_pair(pair: tuple[Path, Path], orders: tuple[str, str]) -> Counts | Fault:
    path, label_path = pair
    try:
        prediction, label = map(read_label, pair, orders)
    except ValueError as error:
        return Fault("unreadable or of other values", str(error))
    if prediction.shape != label.shape:
        (height, width), (label_height, label_width) = prediction.shape, label.shape
        return Fault(
            "of unequal sizes",
            f"prediction {path} is {width}x{height} and its label {label_path} is "
            f"{label_width}x{label_height} (width x height); resize it (nearest neighbour)",
        )
    if prediction.max() == IGNORE_LABEL:
        line = f"prediction {path} holds {IGNORE_LABEL}; give every pixel a class, 0..18"
        return Fault("with unpredicted pixels", line)
    return count(label, prediction)


def _list(faults: list[Fault]) -> str:
    """How many there are of each kind, each with its first line."""
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault.line)
    return "; ".join(f"{len(lines)} {kind} ({lines[0]})" for kind, lines in kinds.items())
