"""The sections of a report's page."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which keeps figures and chooses a backend
from PIL import Image

from jaxparse.classes import IGNORE_LABEL, Classes
from jaxparse.config import Config
from jaxparse.parsing.overlay import colourise, mark_errors
from jaxparse.report.html import Html, element, join, picture, table
from jaxparse.report.suspects import mislabelled_scores
from jaxparse.scoring.counts import Counts
from jaxparse.scoring.scores import Scores, bootstrap_interval, ious, joined_scores, mean_ious
from jaxparse.training.logs import Run, series

SIDE = 240  # longer side of the pictures shown, in pixels
SHOWN_ERRORS = 3  # classes, and pairs of classes, that a picture's text names


class Survey(NamedTuple):
    """Scores of N pictures: no pixels, so that thousands of pictures fit into memory."""

    names: list[str]
    counts: list[Counts]
    weights: np.ndarray  # float32 [N, C, C] of suspects.weigh
    classes: Classes

    @property
    def confusions(self) -> np.ndarray:
        """int64 [N, C, C]."""
        return np.stack([counts.confusion for counts in self.counts])


def in_percent(share: float, sign: str = "") -> str:
    """0.1234 -> 12.34, or +12.34 with `sign` "+"; NaN is a dash."""
    return "–" if np.isnan(share) else f"{100 * share:{sign}.2f}"


def readable(name: str) -> str:
    """The name of a class, for people."""
    return name.replace("_", " ")


def swatch(index: int, classes: Classes) -> Html:
    """The class's colour and name."""
    colour = "background:#" + bytes(classes.colours[index]).hex()
    return join([element("span", class_="swatch", style=colour), readable(classes.names[index])])


def class_legend(classes: Classes) -> Html:
    """The colours of all classes."""
    swatches = (element("span", swatch(index, classes)) for index in range(len(classes)))
    return element("div", *swatches, class_="legend")


def figures(content: dict[str, tuple[str, str]]) -> Html:
    """Title -> (figure, remark)."""
    parts = (
        element("div", title, element("b", value), element("span", remark, class_="soft"))
        for title, (value, remark) in content.items()
    )
    return element("div", *parts, class_="figures")


def summary(survey: Survey, scores: Scores, mirrored: Sequence[int]) -> Html:
    """The means over all pictures."""
    confusions = survey.confusions
    low, high = bootstrap_interval(confusions)
    means = {name: in_percent(value) for name, value in scores.summary().items()}
    has_background = survey.classes.background != IGNORE_LABEL
    return figures(
        {"mIoU": (means["mIoU"], f"95 % interval {in_percent(low)} to {in_percent(high)}")}
        | (sides_figures(survey, mirrored) if survey.classes.pairs else {})
        | {
            "boundary IoU": (means["mBoundaryIoU"], "within 2 % of the diagonal"),
            "aAcc": (means["aAcc"], "of all pixels"),
            "mAcc": (means["mAcc"], "mean over classes"),
            "mF1": (means["mF1"], "mean over classes"),
            "mF1 without background": (
                means["mF1_without_background"],
                f"over {len(survey.classes) - has_background} classes",
            ),
        }
    )


def sides_figures(survey: Survey, mirrored: Sequence[int]) -> dict[str, tuple[str, str]]:
    """mIoU with left and right joined, and with mirrored masks set right."""
    confusions, classes = survey.confusions, survey.classes
    exchanged = confusions.copy()
    exchanged[mirrored] = exchanged[mirrored][:, classes.mirrored]
    joined = joined_scores(confusions.sum(0), classes)
    return {
        "mIoU, left and right joined": (
            in_percent(joined.mean_iou),
            f"over {len(joined.names)} classes",
        ),
        "mIoU, mirrored masks set right": (
            in_percent(float(mean_ious(exchanged.sum(0)))),
            f"{len(mirrored)} of {len(survey.names)} masks",
        ),
    }


def recipe(config: Config, known: Collection[str] = ()) -> Html:
    """All settings, those that differ from the defaults bold; or those alone that are `known`."""
    defaults = {field.name: field.default for field in fields(config)}
    rows = (
        element(
            "div",
            element("dt", name),
            element("dd", str(getattr(config, name))),
            **({} if known or getattr(config, name) == default else {"class_": "changed"}),
        )
        for name, default in defaults.items()
        if not known or name in known
    )
    text = "Settings other than the defaults are bold."
    return join([element("p", "What the file says." if known else text), element("dl", *rows)])


def parameters(counts: dict[str, int]) -> Html:
    """Trainable parameters by part."""
    rows = [[part.replace("_", " "), f"{count:,}"] for part, count in counts.items()]
    foot = ["total", f"{sum(counts.values()):,}"]
    return table("Trainable parameters", ["part", "parameters"], rows, foot)


def last_change(run: Run, name: str) -> float:
    """The change of `name` between the run's last two evaluations; NaN if unknown."""
    steps, values = series(run, name)
    known = dict(zip(steps, values, strict=True))
    before, last = ([np.nan, np.nan] + series(run, "val/mIoU")[0].tolist())[-2:]
    return known.get(last, np.nan) - known.get(before, np.nan)


def change_cell(change: float) -> Html:
    """The change in percentage points, green or red from half a point on."""
    kind = "good" if change >= 0.005 else "bad" if change <= -0.005 else "soft"
    return element("td", in_percent(change, "+"), class_=kind)


def class_table(scores: Scores, confusion: np.ndarray, run: Run, classes: Classes) -> Html:
    """Scores per class, and the change of IoU at the end of training."""
    steps = [f"{step:,.0f}" for step in series(run, "val/mIoU")[0][-2:]]
    moved = f"from step {steps[0]} to {steps[1]}" if len(steps) == 2 else "only one evaluation"
    caption = (
        "In percent. Pixels: share of the labels' pixels. Change: of IoU between the last two "
        f"evaluations of the training run ({moved}), in percentage points."
    )
    head = ["class", "pixels", "IoU", "change", "Acc", "F1", "boundary IoU"]
    pixels = confusion.sum(1) / confusion.sum()
    columns = scores.per_class().values()
    rows = []
    for index, (iou, *others) in enumerate(zip(*columns, strict=True)):
        style = f"--share:{np.nan_to_num(100 * iou):.1f}%"
        bar = element("td", in_percent(iou), class_="bar", style=style)
        change = change_cell(last_change(run, f"IoU/{classes.names[index]}"))
        share, others = in_percent(pixels[index]), map(in_percent, others)
        rows.append([swatch(index, classes), share, bar, change, *others])
    iou, *others = (in_percent(np.nanmean(values)) for values in columns)
    foot = ["mean", "", iou, change_cell(last_change(run, "val/mIoU")), *others]
    return table(caption, head, rows, foot)


def draw_confusion(confusion: np.ndarray, classes: Classes) -> Figure:
    """How the pixels of each label (row) were predicted: [C, C], in percent of the label's."""
    with np.errstate(invalid="ignore"):
        percent = 100 * confusion / confusion.sum(1, keepdims=True)  # NaN: no such label
    figure = Figure((9.5, 8), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            colour = "white" if value > 55 else "black"
            text = f"{value:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    labels, places = list(map(readable, classes.names)), np.arange(len(classes))
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, labels)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.set_facecolor("0.93")  # shows in the rows of absent classes
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="% of the label's pixels", pad=0.02)
    return figure


def worst_errors(confusion: np.ndarray, classes: Classes) -> str:
    """The lowest IoUs and the most frequent confusions of a picture [C, C], in words."""
    names = list(map(readable, classes.names))
    wrong = confusion * ~np.eye(len(names), dtype=bool)
    largest = np.argsort(-wrong, axis=None)[:SHOWN_ERRORS]
    pairs = [
        pair for pair in zip(*np.unravel_index(largest, wrong.shape), strict=True) if wrong[pair]
    ]
    if not pairs:
        return "Nothing is wrong."
    shares = wrong / confusion.sum()
    confused = (
        f"{names[label]} taken for {names[other]} ({in_percent(shares[label, other])} %)"
        for label, other in pairs
    )
    iou = ious(confusion)
    lowest = np.argsort(iou)[:SHOWN_ERRORS]  # NaN comes last
    low = (f"{names[i]} {in_percent(iou[i])}" for i in lowest if iou[i] < 1)
    return f"Lowest IoU: {', '.join(low)}. Most pixels: {', '.join(confused)}."


def panels(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, name: str, classes: Classes
) -> Html:
    """Picture, mask, prediction and errors side by side."""
    columns = {
        "picture": (image, False),
        "mask": (colourise(label, classes), True),
        "prediction": (colourise(prediction, classes), True),
        "errors in pink": (mark_errors(image, label, prediction), False),
    }
    scale = min(1, SIDE / max(label.shape))
    size = tuple(max(1, round(scale * side)) for side in label.shape[::-1])
    parts = []
    for title, (pixels, is_mask) in columns.items():
        method = Image.Resampling.NEAREST if is_mask else Image.Resampling.BOX
        small = Image.fromarray(pixels).resize(size, method)
        panel = picture(small, f"{name}: {title}", lossless=is_mask)
        parts.append(element("figure", panel, element("figcaption", title)))
    return element("div", *parts, class_="row")


class Gallery(NamedTuple):
    """Pictures for one section: a text on all, and a remark on each."""

    text: str
    remarks: dict[int, str]  # by index of the picture

    def html(self, survey: Survey, drawn: dict[int, Html]) -> Html:
        """The section's content."""
        parts = [element("p", self.text)]
        for index, remark in self.remarks.items():
            errors = worst_errors(survey.counts[index].confusion, survey.classes)
            parts.append(element("h3", survey.names[index]))
            parts.append(element("p", f"{remark}. {errors}"))
            parts.append(drawn[index])
        return join(parts)


def galleries(survey: Survey, mirrored: Sequence[int], pictures: int) -> dict[str, Gallery]:
    """Heading -> the worst and the best pictures, and those with suspicious masks."""
    means = mean_ious(survey.confusions)
    ranked = [i for i in np.argsort(means, kind="stable").tolist() if not np.isnan(means[i])]
    remarks = {i: f"mIoU {in_percent(means[i])}" for i in ranked}
    remarks |= {i: f"{remarks[i]}, left and right look exchanged" for i in mirrored}
    worst = ranked[:pictures]
    best = [i for i in reversed(ranked) if i not in worst][:pictures]
    suspicion = mislabelled_scores(survey.confusions, survey.weights, survey.classes)
    suspects = [i for i in np.argsort(-suspicion, kind="stable").tolist() if suspicion[i] > 0]
    of_classes = "A picture's mIoU is over the classes in its mask or its prediction."
    shown = {
        "Worst pictures": Gallery(of_classes, {i: remarks[i] for i in worst}),
        "Best pictures": Gallery(of_classes, {i: remarks[i] for i in best}),
        "Label suspects": Gallery(
            "Masks that the network contradicts most, with confidence and where it is usually "
            "right; left and right count as one class here. Most suspicious first. Look at each: "
            "the mask or the network may be wrong.",
            {i: f"Suspicion {suspicion[i]:.2f}, {remarks[i]}" for i in suspects[:pictures]},
        ),
    }
    if survey.classes.pairs:
        shown["Mirrored masks"] = Gallery(
            "Masks that agree with the network once left and right eyes, brows and ears are "
            f"exchanged: {len(mirrored)} of {len(survey.names)}, at most {pictures} of them shown. "
            "Seen from the front, a person's left eye is on the right.",
            {i: remarks[i] for i in mirrored[:pictures]},
        )
    return shown


def mirrored_table(survey: Survey, mirrored: Sequence[int]) -> Html:
    """Per mask and part of the face, the pixels whose side differs from the network's."""
    rows = []
    for index in mirrored:
        confusion = survey.counts[index].confusion
        cells = []
        for left, right in survey.classes.pairs:
            pair = confusion[np.ix_((left, right), (left, right))]
            cells.append(f"{pair[0, 1] + pair[1, 0]:,} of {pair.sum():,}")
        rows.append([survey.names[index], *cells])
    parts = [readable(survey.classes.part(index)) for index, _ in survey.classes.pairs]
    return table("Pixels with left and right exchanged", ["picture", *parts], rows)
