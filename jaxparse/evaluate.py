"""mIoU of a network on labelled pictures, or of masks that are there, at the masks' own sizes.

    python -m jaxparse.evaluate --workdir RUN
    python -m jaxparse.evaluate --weights FILE --data-dir DIR --flip

The tables and the names of the figures are mmsegmentation's.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich import box
from rich.console import Console, Group
from rich.table import Table

from jaxparse import cli
from jaxparse.checkpoint import BEST_WEIGHTS, load_network
from jaxparse.classes import NAMES, LabelOrder
from jaxparse.data import FolderSource, SyntheticSource, make_source, read_ahead
from jaxparse.files import atomic_path
from jaxparse.metrics import Scores, scores
from jaxparse.parser import PLAIN, Parser, Parsing, Picture, TestTime
from jaxparse.steps import use_compilation_cache


def percent(share: float) -> float | None:
    """0..1 -> 0..100, rounded to 4 decimals; None for NaN, which JSON has not."""
    return None if math.isnan(share) else round(100 * float(share), 4)


def results(scores: Scores) -> dict[str, Any]:
    """Summary and per-class values in percent, as JSON can hold them; absent classes are None."""
    return {name: percent(value) for name, value in scores.means().items()} | {
        "IoU": dict(zip(NAMES, map(percent, scores.iou), strict=True)),
        "Acc": dict(zip(NAMES, map(percent, scores.accuracy), strict=True)),
    }


def scores_table(scores: Scores) -> Group:
    """The tables mmsegmentation prints: per class, then the summary, in percent."""
    classes = Table("Class", "IoU", "Acc", box=box.ASCII2)
    for name, *values in zip(NAMES, scores.iou, scores.accuracy, strict=True):
        classes.add_row(name, *(f"{100 * value:.2f}" for value in values))
    summary = Table(*scores.means(), box=box.ASCII2)
    summary.add_row(*(f"{100 * value:.2f}" for value in scores.means().values()))
    for column in (*classes.columns[1:], *summary.columns):
        column.justify = "right"
    return Group(classes, summary)


def evaluate_pictures(
    parser: Parser, source: FolderSource | SyntheticSource, num_workers: int
) -> Iterator[tuple[Parsing, Counts]]:
    """The parsing of every picture, in order, and what it counts against its mask.

    Threads read ahead and count behind. Raises ValueError for a picture that cannot be read.
    """

    def read(index: int) -> Picture:
        return parser.prepare(*source.read(index))

    def count_one(parsing: Parsing) -> tuple[Parsing, Counts]:
        return parsing, count(parsing.label, parsing.mask)

    pictures = read_ahead(read, range(len(source)), num_workers)
    return read_ahead(count_one, parser.parse(pictures), num_workers)


def evaluate_network(
    workdir: str | None = None,
    exp: str | None = None,
    weights: str | None = None,
    data_dir: str | None = None,
    split: Literal["val", "train"] = "val",
    label_order: LabelOrder | None = None,
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = PLAIN,
    batch_size: int | None = None,
    num_workers: int | None = None,
    output: Path | None = None,
) -> None:
    """Prints IoU and accuracy per class and writes them as JSON.

    Args:
        workdir: Folder of a run; its best weights are taken.
        exp: Experiment to take the settings from, with --weights; by default the file has them.
        weights: Weights of a network (.safetensors), in place of a run.
        data_dir: Folder with val/, or `synthetic`; default: that of the run or experiment.
        split: Pictures to evaluate on.
        label_order: How the masks number the classes; default: as in the run or experiment.
        batch_size: Pictures, or windows, at once; default: that of the run or experiment.
        num_workers: Threads that decode pictures; default: that of the run or experiment.
        output: File to write; default RUN/results.json, without a run ./results.json.
    """
    config, *weights_of_network = load_network(workdir, exp, weights)
    given = {
        "data_dir": data_dir,
        "label_order": label_order,
        "batch_size": batch_size,
        "num_workers": num_workers,
    }
    config = replace(config, **{k: v for k, v in given.items() if v is not None})
    source = make_source(config, split)
    parser = Parser(config, *weights_of_network, test_time)
    with cli.progress_bar(Console(stderr=True)) as progress:
        evaluated = evaluate_pictures(parser, source, config.num_workers)
        counts = [
            counts
            for _, counts in progress.track(evaluated, total=len(source), description="evaluating")
        ]
    network_scores = scores(total(counts).confusion)
    Console().print(scores_table(network_scores))
    about = {
        "experiment": exp or workdir,
        "weights": weights or str(Path(workdir) / BEST_WEIGHTS),
        "data_dir": config.data_dir,
        "split": split,
        "pictures": len(source),
    }
    output = output or Path(workdir or ".") / "results.json"
    write_results(output, about | results(network_scores))
    print(f"written to {output}")


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Writes the dict as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def main() -> None:
    """Command line of `evaluate_network`."""
    use_compilation_cache()
    tyro.cli(evaluate_network, prog="python -m jaxparse.evaluate")


if __name__ == "__main__":
    cli.run(main)
