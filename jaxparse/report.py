"""One page on a run: what it was, how good it is, what it gets wrong, which masks look wrong.

    python -m jaxparse.report RUN --data-dir DIR

report.html holds all it shows and opens anywhere, offline; it has no scripts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from jaxparse import cli
from jaxparse.checkpoint import load_network, read_weights, weights_of_run
from jaxparse.classes import LEFT_RIGHT_PAIRS, MIRRORED, NAMES, PALETTE, LabelOrder
from jaxparse.config import Config
from jaxparse.data import FolderSource, SyntheticSource, make_source
from jaxparse.evaluate import evaluate_pictures
from jaxparse.files import atomic_path
from jaxparse.html_page import Html, chart, element, join, page, picture, table
from jaxparse.overlay import colourise, mark_errors
from jaxparse.parser import PLAIN, Parser, TestTime
from jaxparse.plan import parameter_counts
from jaxparse.plot import Run, draw, draw_confusion, read_runs, series
from jaxparse.scoring import (
    Counts,
    Scores,
    bootstrap_interval,
    joined_scores,
    mean_ious,
    scores,
    total,
)
from jaxparse.steps import use_compilation_cache
from jaxparse.suspects import mirrored_shares, mislabelled_scores, weigh

SIDE = 240  # pixels of the pictures' longer side
MIRRORED_FROM = 0.5  # of the votes; of 110 real masks 7 had 1.0, one 0.33, all others 0.0
SHOWN_ERRORS = 3  # pairs of classes named for a picture

Source = FolderSource | SyntheticSource
Track = Callable[..., Iterable]


class Survey(NamedTuple):
    """What is known of N pictures: numbers alone, so that thousands fit into memory."""

    names: list[str]
    counts: list[Counts]
    weights: np.ndarray  # float32 [N, 19, 19], of suspects.weigh

    @property
    def confusions(self) -> np.ndarray:
        """int64 [N, 19, 19]."""
        return np.stack([counts.confusion for counts in self.counts])


def survey(parser: Parser, source: Source, num_workers: int, track: Track = iter) -> Survey:
    """Parses every picture of the source. Raises ValueError for one that cannot be read."""
    counts, weights = [], []
    for parsing, counted in track(evaluate_pictures(parser, source, num_workers)):
        counts.append(counted)
        weighed = weigh(parsing.label, parsing.mask, parsing.confidence())
        weights.append(weighed.astype(np.float32))
    return Survey([source.name(i) for i in range(len(source))], counts, np.stack(weights))


def percent(share: float, sign: str = "") -> str:
    """0..1 -> 12.34, with `sign` "+" also a plus; NaN is a dash."""
    return "–" if np.isnan(share) else f"{100 * share:{sign}.2f}"


def readable(index: int) -> str:
    """The name of a class."""
    return NAMES[index].replace("_", " ")


def swatch(index: int) -> Html:
    """A class's name beside its colour."""
    colour = "background:#" + bytes(PALETTE[index].tolist()).hex()
    return join([element("span", class_="swatch", style=colour), readable(index)])


def legend() -> Html:
    """The colours of all classes."""
    return element("div", *(element("span", swatch(i)) for i in range(len(NAMES))), class_="legend")


def shown_as(test_time: TestTime) -> str:
    """How the network saw the pictures, in words."""
    changed = {k: v for k, v in vars(test_time).items() if v != getattr(PLAIN, k)}
    settings = (f"{name} {value}" for name, value in changed.items())
    return ", ".join(settings) or "each shown once, as a whole"


def tiles(shown: dict[str, tuple[str, str]]) -> Html:
    """Title -> a figure, and a remark on it."""
    parts = (
        element("div", title, element("b", value), element("span", remark, class_="soft"))
        for title, (value, remark) in shown.items()
    )
    return element("div", *parts, class_="tiles")


def summary(found: Survey, result: Scores, mirrored: Sequence[int]) -> Html:
    """The means over all pictures."""
    confusions = found.confusions
    low, high = bootstrap_interval(confusions)
    exchanged = confusions.copy()
    exchanged[mirrored] = exchanged[mirrored][:, MIRRORED]
    figures = result.summary()
    return tiles(
        {
            "mIoU": (percent(figures["mIoU"]), f"95 % interval {percent(low)} to {percent(high)}"),
            "mIoU, left and right joined": (
                percent(joined_scores(confusions.sum(0)).mean_iou),
                "16 classes",
            ),
            "mIoU, mirrored masks set right": (
                percent(float(mean_ious(exchanged.sum(0)))),
                f"{len(mirrored)} of {len(found.names)} masks",
            ),
            "aAcc": (percent(figures["aAcc"]), "of all pixels"),
            "mAcc": (percent(figures["mAcc"]), "mean over classes"),
            "mF1": (
                percent(figures["mF1"]),
                f"{percent(figures['mF1_without_background'])} without background",
            ),
            "boundary IoU": (percent(figures["mBoundaryIoU"]), "within 2 % of the diagonal"),
        }
    )


def recipe(config: Config) -> Html:
    """All settings; those that differ from the defaults stand out."""
    rows = (
        element(
            "div",
            element("dt", field.name),
            element("dd", str(value)),
            **({} if value == field.default else {"class_": "changed"}),
        )
        for field in fields(config)
        for value in [getattr(config, field.name)]
    )
    return join([element("p", "Settings other than the defaults are bold."), element("dl", *rows)])


def parameters(counts: dict[str, int]) -> Html:
    """Trainable parameters by part."""
    rows = [[part.replace("_", " "), f"{count:,}"] for part, count in counts.items()]
    foot = ["total", f"{sum(counts.values()):,}"]
    return table("Trainable parameters", ["part", "parameters"], rows, foot)


def last_change(run: Run, name: str) -> float:
    """By how much `name` changed between the run's last two evaluations, NaN if unknown."""
    steps, values = series(run, name)
    known = dict(zip(steps, values, strict=True))
    before, last = ([np.nan, np.nan] + series(run, "val/mIoU")[0].tolist())[-2:]
    return known.get(last, np.nan) - known.get(before, np.nan)


def change_cell(change: float) -> Html:
    """The change in percentage points, coloured from half a point."""
    kinds = {change >= 0.005: "good", change <= -0.005: "bad"}
    return element("td", percent(change, "+"), class_=kinds.get(True, "soft"))


def classes(result: Scores, confusion: np.ndarray, run: Run) -> Html:
    """Scores per class, and how IoU moved at the end of training."""
    steps = [f"{step:,.0f}" for step in series(run, "val/mIoU")[0][-2:]]
    moved = f"from step {steps[0]} to {steps[1]}" if len(steps) == 2 else "one evaluation alone"
    caption = (
        "In percent. Pixels are those of the labels; change is that of IoU between the last two "
        f"evaluations while training ({moved}), in points."
    )
    shares = confusion.sum(1) / confusion.sum()
    rows = []
    for index, (name, *values) in enumerate(zip(NAMES, *result.per_class().values(), strict=True)):
        iou, *others = values
        style = f"--share:{np.nan_to_num(100 * iou):.1f}%"
        rows.append(
            [
                swatch(index),
                percent(shares[index]),
                element("td", percent(iou), class_="bar", style=style),
                change_cell(last_change(run, f"IoU/{name}")),
                *map(percent, others),
            ]
        )
    means = [np.nanmean(values) for values in result.per_class().values()]
    foot = ["mean", "", percent(means[0]), change_cell(last_change(run, "val/mIoU"))]
    titles, *others = result.per_class()
    head = ["class", "pixels", titles, "change", *others]
    return table(caption, head, rows, [*foot, *map(percent, means[1:])])


def worst_errors(confusion: np.ndarray) -> str:
    """The largest confusions [19, 19] of a picture, in words."""
    wrong = confusion * ~np.eye(len(NAMES), dtype=bool)
    largest = np.argsort(-wrong, axis=None)[:SHOWN_ERRORS]
    cells = zip(*np.unravel_index(largest, wrong.shape), strict=True)
    shares = {cell: wrong[cell] / max(confusion.sum(), 1) for cell in cells}
    texts = [
        f"{readable(label)} taken for {readable(prediction)} ({percent(share)} %)"
        for (label, prediction), share in shares.items()
        if share > 0
    ]
    return "; ".join(texts) or "nothing wrong"


def panels(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, name: str) -> Html:
    """Picture, mask, prediction and errors beside each other."""
    shown = {
        "picture": (image, False),
        "mask": (colourise(label), True),
        "prediction": (colourise(prediction), True),
        "errors in pink": (mark_errors(image, label, prediction), False),
    }
    scale = min(1, SIDE / max(label.shape))
    size = tuple(max(1, round(scale * side)) for side in label.shape[::-1])
    parts = []
    for title, (pixels, is_mask) in shown.items():
        method = Image.Resampling.NEAREST if is_mask else Image.Resampling.BOX
        small = Image.fromarray(pixels).resize(size, method)
        shown_picture = picture(small, f"{name}: {title}", lossless=is_mask)
        parts.append(element("figure", shown_picture, element("figcaption", title)))
    return element("div", *parts, class_="row")


def draw_panels(
    parser: Parser, source: Source, indices: Iterable[int], track: Track = iter
) -> Iterator[tuple[int, Html]]:
    """The panels of some pictures, which are read and parsed anew."""
    indices = list(indices)
    pictures = (parser.prepare(*source.read(index)) for index in indices)
    for index, parsing in zip(indices, track(parser.parse(pictures)), strict=True):
        image = np.asarray(parsing.source)
        yield index, panels(image, parsing.label, parsing.mask, source.name(index))


class Gallery(NamedTuple):
    """Pictures for one section: what is said of all, and of each."""

    text: str
    remarks: dict[int, str]  # by index of the picture

    def html(self, found: Survey, drawn: dict[int, Html]) -> Html:
        """The section's content."""
        parts = [element("p", self.text)]
        for index, remark in self.remarks.items():
            errors = worst_errors(found.counts[index].confusion)
            parts.append(element("h3", found.names[index]))
            parts.append(element("p", f"{remark}. Of all pixels: {errors}."))
            parts.append(drawn[index])
        return join(parts)


def galleries(found: Survey, mirrored: Sequence[int], pictures: int) -> dict[str, Gallery]:
    """The worst, the best, and those whose masks are suspects, by heading."""
    means = mean_ious(found.confusions)
    ranked = [i for i in np.argsort(means, kind="stable").tolist() if not np.isnan(means[i])]
    remarks = {i: f"mIoU {percent(means[i])}" for i in ranked}
    remarks |= {i: f"{remarks[i]}, left and right look exchanged" for i in mirrored}
    worst = ranked[:pictures]
    best = [i for i in reversed(ranked) if i not in worst][:pictures]
    suspicion = mislabelled_scores(found.weights)
    suspects = [i for i in np.argsort(-suspicion, kind="stable").tolist() if suspicion[i] > 0]
    of_classes = "mIoU of a picture is over the classes that its mask or the prediction has."
    return {
        "Worst pictures": Gallery(of_classes, {i: remarks[i] for i in worst}),
        "Best pictures": Gallery(of_classes, {i: remarks[i] for i in best}),
        "Label suspects": Gallery(
            "Masks that the network contradicts most, with confidence and where it is usually "
            "right; left and right count as one here. Highest first. Whether the mask or the "
            "network is wrong is for you to see.",
            {i: f"Suspicion {suspicion[i]:.3f}, {remarks[i]}" for i in suspects[:pictures]},
        ),
        "Mirrored masks": Gallery(
            "Masks that agree with the network once left and right eyes, brows and ears are "
            f"exchanged: {len(mirrored)} of {len(found.names)}"
            + (f", of which {pictures} are shown" if len(mirrored) > pictures else "")
            + ". Seen from the front, a person's left eye is on the right.",
            {i: remarks[i] for i in mirrored[:pictures]},
        ),
    }


def mirrored_table(found: Survey, mirrored: Sequence[int]) -> Html:
    """Each mask's pixels that are exchanged with the network's, per part of the face."""
    rows = []
    for index in mirrored:
        confusion = found.counts[index].confusion
        cells = []
        for left, right in LEFT_RIGHT_PAIRS:
            pair = confusion[np.ix_((left, right), (left, right))]
            cells.append(f"{pair[0, 1] + pair[1, 0]:,} of {pair.sum():,}")
        rows.append([found.names[index], *cells])
    return table("Pixels with left and right exchanged", ["picture", "eyes", "brows", "ears"], rows)


def sections(
    found: Survey, parser: Parser, source: Source, run: Run, pictures: int, track: Track = iter
) -> dict[str, Html]:
    """What the pictures tell, by heading."""
    shares = mirrored_shares(found.weights)
    mirrored = [i for i in np.argsort(-shares, kind="stable").tolist() if shares[i] > MIRRORED_FROM]
    shown = galleries(found, mirrored, pictures)
    wanted = sorted({index for gallery in shown.values() for index in gallery.remarks})
    drawn = dict(draw_panels(parser, source, wanted, track))
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
        parts = content["Mirrored masks"], mirrored_table(found, mirrored)
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
    here = replace(config, **{k: v for k, v in given.items() if v is not None})
    source = make_source(here, split)
    parser = Parser(here, *arrays, test_time)
    with cli.progress_bar(Console(stderr=True)) as progress:
        track = partial(progress.track, description="evaluating", total=len(source))
        found = survey(parser, source, here.num_workers, track)
        track = partial(progress.track, description="drawing")
        content = sections(found, parser, source, log, pictures, track)
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
