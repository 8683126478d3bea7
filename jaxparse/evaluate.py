"""Scores of a network on labelled pictures, or of masks written by any tool.

    python -m jaxparse.evaluate FILE_OR_RUN --data-dir DIR --flip --scales 0.75 1 1.25
    python -m jaxparse.evaluate --predictions DIR --labels DIR

Predictions are scored at the masks' own sizes. The tables and the names of the figures are
mmsegmentation's. Training evaluates by a faster path of its own (training/validation.py), without
test-time augmentation and boundary IoU; the figures that both give are equal.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("evaluate")

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, Classes, orders_of
from jaxparse.config import Config, override, scored_in
from jaxparse.data.sources import make_source
from jaxparse.devices import ONE_PROCESS, Processes, gather_rows, joined, use_compilation_cache
from jaxparse.files import require_writable_file
from jaxparse.parsing.labelled import evaluate_pictures
from jaxparse.parsing.parser import NO_TEST_TIME, Parser, TestTime
from jaxparse.scoring.counts import Counts, total
from jaxparse.scoring.folders import score_folders
from jaxparse.scoring.scores import (
    Scores,
    bootstrap_interval,
    joined_scores,
    likelier_order,
    picture_f1,
    sides_are_exchanged,
)
from jaxparse.scoring.tables import results, scores_table
from jaxparse.weights.find import find_weights, load_network, run_of


def gather(counts: Sequence[Counts], pictures: int, classes: int) -> list[Counts]:
    """The counts of all pictures, in every process; each of the n processes counted every n-th."""
    flat = [np.concatenate([part.ravel() for part in one]) for one in counts]
    rows = np.array(flat, np.int32).reshape(-1, classes * (classes + 3))
    return [
        Counts(row[: classes**2].reshape(classes, -1), row[classes**2 :].reshape(3, -1))
        for row in gather_rows(rows, pictures).astype(np.int64)
    ]


def publish(
    counts: Sequence[Counts], classes: Classes, about: dict[str, Any], output: Path
) -> None:
    """Prints the tables, warns if the masks seem to use another order, and writes JSON."""
    confusion, boundary = total(counts)
    confusions = np.stack([one.confusion for one in counts])
    figures = (
        Scores.of(confusion, boundary, classes.names),
        joined_scores(confusion, classes) if classes.pairs else None,
        bootstrap_interval(confusions),
        float(np.nanmean(picture_f1(confusions))),
    )
    console = Console()
    console.print(scores_table(*figures))
    # A network predicts the classes of its own table.
    orders = {"label": confusion} | ({"prediction": confusion.T} if "predictions" in about else {})
    for what, matrix in orders.items():
        if order := likelier_order(matrix, orders_of(classes)):
            cli.show(
                console,
                f"warning: the {what}s seem to number the classes in the order of {order}; if so, "
                f"give --{what}s-are {order}",
            )
            break
    if sides_are_exchanged(confusion, classes):
        cli.show(
            console,
            "warning: left and right look exchanged between predictions and labels (compare the "
            "scores with left and right joined): one side may be mirrored, or call the viewer's "
            "left left",
        )
    with cli.written(output) as temporary:
        content = about | {"pictures": len(counts)} | results(*figures)
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def evaluate_masks(
    predictions: Path,
    labels: Path,
    classes: Classes,
    predictions_are: Classes | None,
    labels_are: Classes | None,
) -> list[Counts]:
    """Counts of every mask against its label, with a progress bar."""
    tables = classes, predictions_are, labels_are
    track = partial(cli.track, doing="scoring")
    return list(score_folders(predictions, labels, *tables, track).values())


def evaluate_network(parser: Parser, config: Config, split: str) -> list[Counts]:
    """Counts of every picture of the split, with a progress bar; the same in every process.

    The masks of `config` are of the parser's classes.
    """
    source = make_source(config, split)
    mine = range(jax.process_index(), len(source), jax.process_count())
    evaluated = evaluate_pictures(parser, source, config.num_workers, mine)
    quiet = jax.process_index() > 0
    evaluated = cli.track(evaluated, len(mine), "evaluating", quiet, first=cli.COMPILING)
    return gather([counts for _, counts in evaluated], len(source), len(config.classes))


def evaluate(
    weights: tyro.conf.Positional[str | None] = None,
    exp: str | None = None,
    data_dir: str | None = None,
    split: Literal["val", "train"] = "val",
    predictions: Path | None = None,
    labels: Path | None = None,
    classes: Classes | None = None,
    labels_are: Classes | None = None,
    predictions_are: Classes | None = None,
    mirrored_masks: str | None = None,
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = NO_TEST_TIME,
    batch_size: int | None = None,
    num_workers: int | None = None,
    output: Path | None = None,
    processes: tyro.conf.OmitArgPrefixes[Processes] = ONE_PROCESS,
) -> None:
    """Prints IoU, accuracy, F1 and boundary IoU per class, and their means; writes them as JSON.

    Args:
        weights: A weights file (.safetensors), the folder of a run (its best weights), or what else
            `predict --weights` takes; also as --weights.
        exp: Experiment whose settings replace those stored with the weights.
        data_dir: Folder with val/, or `synthetic`; default: as in the run or experiment.
        split: Pictures to evaluate on.
        predictions: Folder of masks to score, in place of a network.
        labels: Folder of the true masks, of the same names, with --predictions.
        classes: Table to score in, which the network's classes can become by merging; default: the
            network's, or celebamask with --predictions.
        labels_are: Table that the true masks are in; default: as in the run or experiment, or
            --classes with --predictions.
        predictions_are: Table that the masks of --predictions are in; default: --classes.
        mirrored_masks: List of masks whose left and right are exchanged on reading, or `none`;
            default: as in the run or experiment, but `none` with --data-dir.
        batch_size: Pictures per call of the network; default: as in the run or
            experiment.
        num_workers: Threads that decode pictures; default: as in the run or experiment.
        output: File to write; default: results.json in the run's folder, or here without a run.
    """
    run = run_of(weights) if weights else None
    output = output or (run or Path()) / "results.json"
    require_writable_file(output)
    if predictions or labels:
        if not (predictions and labels) or weights or data_dir or mirrored_masks:
            raise ValueError(
                "give --predictions DIR and --labels DIR together, without --weights, --data-dir "
                "and --mirrored-masks"
            )
        classes = classes or CELEBAMASK
        counts = evaluate_masks(predictions, labels, classes, predictions_are, labels_are)
        about = {"predictions": str(predictions), "labels": str(labels), "classes": str(classes)}
        publish(counts, classes, about, output)
        return
    if not weights:
        raise ValueError("give --weights FILE_OR_RUN, or --predictions DIR and --labels DIR")
    if predictions_are:
        raise ValueError("--predictions-are needs --predictions; a network's file says its classes")
    changes = {
        "data_dir": data_dir,
        "mirrored_masks": mirrored_masks or ("none" if data_dir else None),
        "batch_size": batch_size,
        "num_workers": num_workers,
    }
    with joined(processes):
        config, *arrays = load_network(weights, exp)
        config = override(config, changes)
        scored = scored_in(config, classes, labels_are)
        about = {
            "experiment": exp,
            "weights": str(find_weights(weights)),
            "data_dir": config.data_dir,
            "split": split,
            "classes": str(scored.classes),
            "mirrored_masks": config.mirrored_masks,
            "test_time": vars(test_time),
        }
        parser = Parser(config, *arrays, test_time, classes=scored.classes)
        counts = evaluate_network(parser, scored, split)
        if jax.process_index() == 0:
            publish(counts, scored.classes, about, output)


def main() -> None:
    """Command line of `evaluate`."""
    use_compilation_cache()
    cli.command(evaluate, "evaluate", {"--weights": "", "--workdir": ""})
