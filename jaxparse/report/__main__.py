"""One page on a network: its run, its scores, its errors, and masks that look wrong.

    python -m jaxparse.report FILE_OR_RUN --data-dir DIR

report.html embeds everything it shows: it opens anywhere, offline, and has no scripts. Beside it
lies mirrored_masks.txt, the list for --mirrored-masks.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("report")

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from jaxparse import cli
from jaxparse.classes import Classes
from jaxparse.config import override, scored_in
from jaxparse.data.mirrored import listed_names, write_names
from jaxparse.data.sources import FolderSource, SyntheticSource, make_source
from jaxparse.devices import use_compilation_cache
from jaxparse.files import require_writable_file
from jaxparse.models.parameters import parameter_counts
from jaxparse.parsing.labelled import evaluate_pictures
from jaxparse.parsing.parser import NO_TEST_TIME, Parser, TestTime
from jaxparse.report.html import Html, chart, element, join, page
from jaxparse.report.sections import (
    Survey,
    class_legend,
    class_table,
    draw_confusion,
    galleries,
    mirrored_table,
    panels,
    parameters,
    recipe,
    summary,
)
from jaxparse.report.suspects import mirrored_shares, surely_mirrored, weigh
from jaxparse.scoring.counts import total
from jaxparse.scoring.scores import Scores
from jaxparse.training.curves import draw
from jaxparse.training.logs import Run, read_runs
from jaxparse.weights.files import network_fields, read_weights
from jaxparse.weights.find import find_weights, load_network, run_of

MIRRORED_LIST = "mirrored_masks.txt"
MIRRORED_FROM = 0.5  # share of the votes; of 110 real masks 7 had 1.0, one 0.33, the others 0.0

Source = FolderSource | SyntheticSource


def survey_pictures(parser: Parser, source: Source, num_workers: int) -> Survey:
    """Parses and scores every picture of the source, with a progress bar."""
    counts, weights = [], []
    evaluated = evaluate_pictures(parser, source, num_workers)
    for parsing, counted in cli.track(evaluated, len(source), "evaluating", first=cli.COMPILING):
        counts.append(counted)
        masks = parsing.label, parsing.mask
        weighed = weigh(*masks, parsing.confidence(), len(parser.classes))
        weights.append(weighed.astype(np.float32))
    names = [source.name(i) for i in range(len(source))]
    return Survey(names, counts, np.stack(weights), parser.classes)


def describe(test_time: TestTime) -> str:
    """The test-time augmentation, in words."""
    changed = vars(test_time).items() - vars(NO_TEST_TIME).items()
    settings = (f"{name} {value}" for name, value in sorted(changed))
    return ", ".join(settings) or "no test-time augmentation"


def draw_panels(parser: Parser, source: Source, indices: list[int]) -> Iterator[tuple[int, Html]]:
    """The index and panels of some pictures, which are read and parsed again."""
    pictures = (parser.prepare(*source.read(index)) for index in indices)
    for index, parsing in zip(indices, parser.parse(pictures), strict=True):
        image = np.asarray(parsing.source)
        masks = parsing.label, parsing.mask
        yield index, panels(image, *masks, source.name(index), parser.classes)


def sections(
    survey: Survey, parser: Parser, source: Source, run: Run, pictures: int
) -> dict[str, Html]:
    """Heading -> section, of all sections on the pictures."""
    classes = survey.classes
    shares = mirrored_shares(survey.weights, classes)
    mirrored = [i for i in np.argsort(-shares, kind="stable").tolist() if shares[i] > MIRRORED_FROM]
    shown = galleries(survey, mirrored, pictures)
    indices = sorted({index for gallery in shown.values() for index in gallery.remarks})
    drawn = dict(cli.track(draw_panels(parser, source, indices), len(indices), "drawing"))
    confusion, boundary = total(survey.counts)
    scores = Scores.of(confusion, boundary, classes.names)
    alt = "Confusion matrix: a row per label, a column per prediction, in percent of the label"
    content = {
        "Scores": summary(survey, scores, mirrored),
        "Classes": class_table(scores, confusion, run, classes),
        "Confusion": chart(draw_confusion(confusion, classes), alt),
    }
    content |= {heading: gallery.html(survey, drawn) for heading, gallery in shown.items()}
    content["Worst pictures"] = join([class_legend(classes), content["Worst pictures"]])
    if mirrored:
        parts = mirrored_table(survey, mirrored), content["Mirrored masks"]
        content["Mirrored masks"] = join(parts)
    return content


def wrong_on_disk(survey: Survey, exchanged: set[str]) -> set[str]:
    """Names of the masks on disk that are surely mirrored, when those in `exchanged` were repaired.

    Names of other pictures stay, so that reports on train and val make one list.
    """
    sure = surely_mirrored(survey.weights, survey.classes)
    return exchanged ^ {survey.names[index] for index in np.flatnonzero(sure)}


def report(
    weights: tyro.conf.Positional[str],
    data_dir: str | None = None,
    split: Literal["val", "train"] = "val",
    classes: Classes | None = None,
    labels_are: Classes | None = None,
    mirrored_masks: str | None = None,
    output: Path | None = None,
    pictures: int = 8,
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = NO_TEST_TIME,
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> None:
    """Writes one page on a network: scores, curves of its run, errors, suspicious masks.

    Args:
        weights: A run's folder (its best weights), or, then without curves and recipe, what else
            `predict --weights` takes; also as --weights.
        data_dir: Folder with val/, or `synthetic`; default: as in the run.
        split: Pictures to report on.
        classes: Table to score in, which the network's classes can become by merging; default: the
            network's.
        labels_are: Table that the masks are in; default: as in the run.
        mirrored_masks: List of masks whose left and right are exchanged on reading, or `none`;
            default: as in the run, but `none` with --data-dir.
        output: File to write; default: report.html in the run's folder, or here without a run.
        pictures: How many to show of the worst, of the best and of each kind of suspicious masks.
        batch_size: Pictures per call of the network; default: as in the run.
        num_workers: Threads that decode pictures; default: as in the run.
    """
    if pictures < 1:
        raise ValueError(f"--pictures is {pictures}; give at least 1")
    folder = run_of(weights)
    output = output or (folder or Path()) / "report.html"
    require_writable_file(output)
    config, *arrays = load_network(weights)
    path = find_weights(weights)
    run = read_runs([folder])[0] if folder else Run(path.stem, "", [])
    changes = {
        "data_dir": data_dir,
        "mirrored_masks": mirrored_masks or ("none" if data_dir else None),
        "batch_size": batch_size,
        "num_workers": num_workers,
    }
    settings = override(config, changes)
    scored = scored_in(settings, classes, labels_are)
    source = make_source(scored, split)
    parser = Parser(settings, *arrays, test_time, classes=scored.classes)
    survey = survey_pictures(parser, source, settings.num_workers)
    content = sections(survey, parser, source, run, pictures)
    origin = read_weights(path)[1]["source"]
    about = element(
        "p",
        f"Weights {path.name} ({origin}) on the {len(source)} pictures of {settings.data_dir}, "
        f"{split}; {describe(test_time)}.",
        class_="soft",
    )
    if run.rows:
        curves = chart(draw([run]), "Loss, learning rate and scores during training")
        content = {"Scores": content.pop("Scores"), "Curves": curves} | content
    known = () if folder else network_fields(path)
    content["Recipe" if folder else "Network"] = join(
        [recipe(config, known), parameters(parameter_counts(arrays[0]))]
    )
    with cli.written(output) as temporary:
        html = page(run.label, content, about)
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    if not scored.classes.pairs:
        return
    names = wrong_on_disk(survey, listed_names(settings))
    write_names(output.parent / MIRRORED_LIST, names)
    print(f"{cli.counted(len(names), 'mirrored mask')} listed in {output.parent / MIRRORED_LIST}")


def main() -> None:
    """Command line of `report`."""
    use_compilation_cache()
    cli.command(report, "report", {"--weights": "", "--workdir": ""})
