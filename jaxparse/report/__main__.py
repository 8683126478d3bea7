"""One page on a run: what it was, how good it is, what it gets wrong, which masks look wrong.

    python -m jaxparse.report RUN --data-dir DIR

report.html holds all it shows and opens anywhere, offline; it has no scripts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from jaxparse import cli
from jaxparse.classes import LabelOrder
from jaxparse.config import override
from jaxparse.data.sources import FolderSource, SyntheticSource, make_source
from jaxparse.devices import use_compilation_cache
from jaxparse.files import atomic_path
from jaxparse.models.parameters import parameter_counts
from jaxparse.parsing.labelled import evaluate_pictures
from jaxparse.parsing.parser import PLAIN, Parser, TestTime
from jaxparse.report.html import Html, chart, element, join, page
from jaxparse.report.sections import (
    Survey,
    classes,
    draw_confusion,
    galleries,
    legend,
    mirrored_table,
    panels,
    parameters,
    recipe,
    summary,
)
from jaxparse.report.suspects import mirrored_shares, weigh
from jaxparse.scoring.counts import total
from jaxparse.scoring.scores import scores
from jaxparse.training.curves import draw
from jaxparse.training.logs import Run, read_runs
from jaxparse.weights.files import load_network, read_weights, weights_of_run

MIRRORED_FROM = 0.5  # of the votes; of 110 real masks 7 had 1.0, one 0.33, all others 0.0

Source = FolderSource | SyntheticSource


def survey(parser: Parser, source: Source, num_workers: int, progress: Progress) -> Survey:
    """Parses every picture of the source. Raises ValueError for one that cannot be read."""
    counts, weights = [], []
    evaluated = evaluate_pictures(parser, source, num_workers)
    for parsing, counted in progress.track(evaluated, total=len(source), description="evaluating"):
        counts.append(counted)
        weighed = weigh(parsing.label, parsing.mask, parsing.confidence())
        weights.append(weighed.astype(np.float32))
    return Survey([source.name(i) for i in range(len(source))], counts, np.stack(weights))


def shown_as(test_time: TestTime) -> str:
    """How the network saw the pictures, in words."""
    changed = {k: v for k, v in vars(test_time).items() if v != getattr(PLAIN, k)}
    settings = (f"{name} {value}" for name, value in changed.items())
    return ", ".join(settings) or "each shown once, as a whole"


def draw_panels(parser: Parser, source: Source, indices: list[int]) -> Iterator[tuple[int, Html]]:
    """The panels of some pictures, which are read and parsed anew."""
    pictures = (parser.prepare(*source.read(index)) for index in indices)
    for index, parsing in zip(indices, parser.parse(pictures), strict=True):
        image = np.asarray(parsing.source)
        yield index, panels(image, parsing.label, parsing.mask, source.name(index))


def sections(
    found: Survey, parser: Parser, source: Source, run: Run, pictures: int, progress: Progress
) -> dict[str, Html]:
    """What the pictures tell, by heading."""
    shares = mirrored_shares(found.weights)
    mirrored = [i for i in np.argsort(-shares, kind="stable").tolist() if shares[i] > MIRRORED_FROM]
    shown = galleries(found, mirrored, pictures)
    wanted = sorted({index for gallery in shown.values() for index in gallery.remarks})
    drawn = draw_panels(parser, source, wanted)
    drawn = dict(progress.track(drawn, total=len(wanted), description="drawing"))
    confusion, boundary = total(found.counts)
    result = scores(confusion, boundary)
    alt = "Confusion matrix: a row per label, a column per prediction, in percent of the label"
    content = {
        "Scores": summary(found, result, mirrored),
        "Classes": classes(result, confusion, run),
        "Confusion": chart(draw_confusion(confusion), alt),
    }
    content |= {heading: gallery.html(found, drawn) for heading, gallery in shown.items()}
    content["Worst pictures"] = join([legend(), content["Worst pictures"]])
    if mirrored:
        parts = mirrored_table(found, mirrored), content["Mirrored masks"]
        content["Mirrored masks"] = join(parts)
    return content


def report(
    run: Path,
    data_dir: str | None = None,
    split: Literal["val", "train"] = "val",
    label_order: LabelOrder | None = None,
    output: Path | None = None,
    pictures: int = 8,
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = PLAIN,
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> None:
    """Writes one page on a run and its best weights: scores, curves, errors, suspicious masks.

    Args:
        run: Folder of the run.
        data_dir: Folder with val/, or `synthetic`; default: that of the run.
        split: Pictures to look at.
        label_order: How the masks number the classes; default: as in the run.
        output: File to write; default RUN/report.html.
        pictures: How many to show of the worst, the best and each kind of suspicious masks.
        batch_size: Pictures, or windows, at once; default: that of the run.
        num_workers: Threads that decode pictures; default: that of the run.
    """
    if pictures < 1:
        raise ValueError(f"--pictures is {pictures}; give at least 1")
    config, *arrays = load_network(str(run))
    log = read_runs([run])[0]
    given = {
        "data_dir": data_dir,
        "label_order": label_order,
        "batch_size": batch_size,
        "num_workers": num_workers,
    }
    here = override(config, given)
    source = make_source(here, split)
    parser = Parser(here, *arrays, test_time)
    with cli.progress_bar(Console(stderr=True)) as progress:
        found = survey(parser, source, here.num_workers, progress)
        content = sections(found, parser, source, log, pictures, progress)
    weights = read_weights(weights_of_run(run))[1]["source"]
    about = element(
        "p",
        f"Best weights ({weights}) on the {len(source)} pictures of {here.data_dir}, {split}; "
        f"{shown_as(test_time)}.",
        class_="soft",
    )
    curves = chart(draw([log]), "Curves of loss, learning rate and scores while training")
    content = {"Scores": content.pop("Scores"), "Curves": curves} | content
    content["Recipe"] = join([recipe(config), parameters(parameter_counts(arrays[0]))])
    output = output or run / "report.html"
    with atomic_path(output) as temporary:
        temporary.write_text(page(log.label, content, about), encoding="utf-8")
    print(f"written to {output}")


def main() -> None:
    """Command line of `report`."""
    use_compilation_cache()
    config = (tyro.conf.PositionalRequiredArgs,)
    tyro.cli(report, prog="python -m jaxparse.report", config=config)


if __name__ == "__main__":
    cli.run(main)
