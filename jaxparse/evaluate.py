"""Scores of a network on labelled pictures, or of masks written by any tool.

    python -m jaxparse.evaluate --weights FILE_OR_RUN --data-dir DIR --flip --scales 0.75 1 1.25
    python -m jaxparse.evaluate --predictions DIR --labels DIR

Predictions are scored at the masks' own sizes. The tables and the names of the figures are
mmsegmentation's. Training evaluates by a faster path of its own (training/validation.py), without
test-time augmentation and boundary IoU; the figures that both give are equal.
"""

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
from jaxparse.classes import LABEL_ORDERS, NUM_CLASSES, LabelOrder
from jaxparse.config import Config, override
from jaxparse.data.sources import make_source
from jaxparse.devices import ONE_PROCESS, Processes, gather_rows, joined, use_compilation_cache
from jaxparse.files import atomic_path, require_writable_file
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
from jaxparse.weights.find import find_weights, load_network


def gather(counts: Sequence[Counts], pictures: int) -> list[Counts]:
    """The counts of all pictures, in every process; each of the n processes counted every n-th."""
    flat = [np.concatenate([part.ravel() for part in one]) for one in counts]
    rows = np.array(flat, np.int32).reshape(-1, NUM_CLASSES * (NUM_CLASSES + 3))
    return [
        Counts(row[: NUM_CLASSES**2].reshape(NUM_CLASSES, -1), row[NUM_CLASSES**2 :].reshape(3, -1))
        for row in gather_rows(rows, pictures).astype(np.int64)
    ]


def publish(counts: Sequence[Counts], about: dict[str, Any], output: Path) -> None:
    """Prints the tables, warns if the masks seem to use another label order, and writes JSON."""
    confusion, boundary = total(counts)
    confusions = np.stack([one.confusion for one in counts])
    figures = (
        Scores.of(confusion, boundary),
        joined_scores(confusion),
        bootstrap_interval(confusions),
        float(np.nanmean(picture_f1(confusions))),
    )
    console = Console()
    console.print(scores_table(*figures))
    # A network always predicts the official classes.
    orders = {"label": confusion} | ({"prediction": confusion.T} if "predictions" in about else {})
    for what, matrix in orders.items():
        if order := likelier_order(matrix, LABEL_ORDERS):
            cli.show(
                console,
                f"warning: the {what}s seem to number the classes in the order {order}; if so, "
                f"give --{what}-order {order}",
            )
            break
    if sides_are_exchanged(confusion):
        cli.show(
            console,
            "warning: left and right look exchanged between predictions and labels (compare the "
            "scores with left and right joined): one side may be mirrored, or call the viewer's "
            "left left",
        )
    with atomic_path(output) as temporary:
        content = about | {"pictures": len(counts)} | results(*figures)
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    print(f"written to {output}")


def evaluate_masks(
    predictions: Path, labels: Path, prediction_order: LabelOrder, label_order: LabelOrder
) -> list[Counts]:
    """Counts of every mask against its label, with a progress bar."""
    orders = prediction_order, label_order
    track = partial(cli.track, doing="scoring")
    return list(score_folders(predictions, labels, *orders, track).values())


def evaluate_network(parser: Parser, config: Config, split: str) -> list[Counts]:
    """Counts of every picture of the split, with a progress bar; the same in every process."""
    source = make_source(config, split)
    mine = range(jax.process_index(), len(source), jax.process_count())
    evaluated = evaluate_pictures(parser, source, config.num_workers, mine)
    evaluated = cli.track(evaluated, len(mine), "evaluating", quiet=jax.process_index() > 0)
    return gather([counts for _, counts in evaluated], len(source))


def evaluate(
    weights: str | None = None,
    exp: str | None = None,
    data_dir: str | None = None,
    split: Literal["val", "train"] = "val",
    predictions: Path | None = None,
    labels: Path | None = None,
    label_order: LabelOrder | None = None,
    prediction_order: LabelOrder | None = None,
    mirrored_masks: str | None = None,
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = NO_TEST_TIME,
    batch_size: int | None = None,
    num_workers: int | None = None,
    output: Path | None = None,
    processes: tyro.conf.OmitArgPrefixes[Processes] = ONE_PROCESS,
) -> None:
    """Prints IoU, accuracy, F1 and boundary IoU per class, and their means; writes them as JSON.

    Args:
        weights: A weights file (.safetensors), the folder of a run (its best weights), or a
            repository of the Hugging Face hub (user/name).
        exp: Experiment whose settings replace those stored with the weights.
        data_dir: Folder with val/, or `synthetic`; default: as in the run or experiment.
        split: Pictures to evaluate on.
        predictions: Folder of masks to score, in place of a network.
        labels: Folder of the true masks, of the same names, with --predictions.
        label_order: How the true masks number the classes; default: as in the run or experiment.
        prediction_order: How the masks of --predictions number them; default: official.
        mirrored_masks: List of masks whose left and right are exchanged on reading, or `none`;
            default: as in the run or experiment, but `none` with --data-dir.
        batch_size: Pictures per call of the network; default: as in the run or
            experiment.
        num_workers: Threads that decode pictures; default: as in the run or experiment.
        output: File to write; default: results.json in the run's folder, or here without a run.
    """
    is_run = weights is not None and Path(weights).is_dir()
    output = output or Path(weights if is_run else ".") / "results.json"
    require_writable_file(output)
    if predictions or labels:
        if not (predictions and labels) or weights or data_dir or mirrored_masks:
            raise ValueError(
                "give --predictions DIR and --labels DIR together, without --weights, --data-dir "
                "and --mirrored-masks"
            )
        orders = prediction_order or "official", label_order or "official"
        counts = evaluate_masks(predictions, labels, *orders)
        publish(counts, {"predictions": str(predictions), "labels": str(labels)}, output)
        return
    if not weights:
        raise ValueError("give --weights FILE_OR_RUN, or --predictions DIR and --labels DIR")
    if prediction_order:
        raise ValueError(
            "--prediction-order needs --predictions; networks predict the official order"
        )
    changes = {
        "data_dir": data_dir,
        "label_order": label_order,
        "mirrored_masks": mirrored_masks or ("none" if data_dir else None),
        "batch_size": batch_size,
        "num_workers": num_workers,
    }
    with joined(processes):
        config, *arrays = load_network(weights, exp)
        config = override(config, changes)
        about = {
            "experiment": exp,
            "weights": str(find_weights(weights)),
            "data_dir": config.data_dir,
            "split": split,
            "mirrored_masks": config.mirrored_masks,
            "test_time": vars(test_time),
        }
        counts = evaluate_network(Parser(config, *arrays, test_time), config, split)
        if jax.process_index() == 0:
            publish(counts, about, output)


def main() -> None:
    """Command line of `evaluate`."""
    use_compilation_cache()
    cli.command(evaluate, "evaluate", {"--workdir": "--weights"})


if __name__ == "__main__":
    cli.run(main)
