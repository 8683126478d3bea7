"""Curves of runs, from their metrics.jsonl alone: finished, stopped or going on.

    python -m jaxparse.plot runs/swin_t runs/swin_b --output curves.png

Loss, learning rate, the three figures of each evaluation, and IoU per class at the best one.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which keeps figures and chooses a backend
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from jaxparse import cli
from jaxparse.classes import NAMES
from jaxparse.files import atomic_path
from jaxparse.logs import METRICS, read_rows

# Okabe and Ito 2008, "Color Universal Design": told apart by colour-blind people. Without the
# yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FORMATS = (".png", ".pdf", ".svg")
SIZE = (11, 8)  # inches
DPI = 150  # pixels per inch of a .png


class Run(NamedTuple):
    """A run's name and colour in the figure, and its rows as `logs.read_rows` gives them."""

    label: str
    colour: str
    rows: list[dict[str, float]]


def read_runs(folders: list[Path]) -> list[Run]:
    """Labels are the folders' names, paths as given where names are the same.

    Raises ValueError for a folder that is not a run's, or more folders than colours.
    """
    if not 0 < len(folders) <= len(COLOURS):
        raise ValueError(f"{len(folders)} runs are named; give the folders of 1 to {len(COLOURS)}")
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give a run's, which holds {METRICS}")
        if not (folder / METRICS).is_file():
            raise ValueError(f"{folder} holds no {METRICS}; give the folder of a run that began")
    names = [folder.resolve().name for folder in folders]
    labels = (str(f) if names.count(n) > 1 else n for f, n in zip(folders, names, strict=True))
    return list(map(Run, labels, COLOURS, (read_rows(folder / METRICS) for folder in folders)))


def read_changes(folders: list[Path], seconds: float) -> Iterator[list[Run]]:
    """The runs now, and again whenever they have changed when looked at every `seconds`."""
    before = None
    while True:
        runs = read_runs(folders)
        if runs != before:
            yield runs
        before = runs
        time.sleep(seconds)


def series(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, ascending, and finite values [N] of `name`; of rows of the same step the last."""
    values = {row["step"]: row[name] for row in run.rows if name in row}
    pairs = sorted(pair for pair in values.items() if np.isfinite(pair[1]))
    return tuple(np.array(pairs, np.float64).reshape(-1, 2).T)


def centred_mean(steps: np.ndarray, values: np.ndarray, span: float) -> np.ndarray:
    """[N] mean of the values within span / 2 steps of each step; at the ends of those there are.

    An exponential mean would lag behind, and depend on how often a run was logged.
    """
    first = np.searchsorted(steps, steps - span / 2, side="left")
    after = np.searchsorted(steps, steps + span / 2, side="right")
    sums = np.concatenate([[0], np.cumsum(values)])
    return (sums[after] - sums[first]) / (after - first)


def best_row(run: Run) -> dict[str, float]:
    """All that was logged at the evaluation of the highest mIoU; of equals the first, whose weights
    training keeps. Empty before the first evaluation.
    """
    steps, values = series(run, "val/mIoU")
    if not len(steps):
        return {}
    rows = (row for row in run.rows if row["step"] == steps[values.argmax()])
    return {name: value for row in rows for name, value in row.items()}


def class_ious(row: dict[str, float]) -> np.ndarray:
    """IoU [19] in percent; NaN for classes that were absent, or not logged."""
    return 100 * np.array([row.get(f"IoU/{name}", np.nan) for name in NAMES])


def describe(run: Run) -> str:
    """The run's text in the legend."""
    if not (best := best_row(run)):
        return f"{run.label}: no evaluation yet"
    lacks = "" if np.isfinite(class_ious(best)).any() else "; no IoU per class logged"
    return f"{run.label}: best mIoU {100 * best['val/mIoU']:.2f} % at step {best['step']:,}{lacks}"


def style_panel(axes: Axes, title: str, empty: str = "") -> None:
    """`empty` says why there is nothing to see."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=9, color="0.7")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")
    if empty:
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color="0.35")
        axes.yaxis.set_major_locator(NullLocator())


def draw_curves(axes: Axes, title: str, runs: list[Run], name: str, span: float = 0) -> None:
    """A line per run; with a `span` (steps) that of the centred mean, and a thin one as logged."""
    evaluations = name.startswith("val/")
    curves = [series(run, name) for run in runs]
    for run, (steps, values) in zip(runs, curves, strict=True):
        values = values * (100 if evaluations else 1)
        # Evaluations are few, so a dot each; and one value alone makes no line.
        marker = "o" if evaluations or len(steps) == 1 else ""
        means = centred_mean(steps, values, span)
        axes.plot(steps, means, color=run.colour, linewidth=1.5, marker=marker, markersize=3.5)
        if span:
            axes.plot(steps, values, color=run.colour, linewidth=0.6, alpha=0.5, zorder=1)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10), integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 160k
    axes.yaxis.set_major_formatter("{x:g}")
    nothing = "no evaluation yet" if evaluations else "nothing logged yet"
    style_panel(axes, title, "" if any(len(steps) for steps, _ in curves) else nothing)


def draw_classes(axes: Axes, title: str, runs: list[Run]) -> None:
    """A group of bars per class, a bar per run that logged them."""
    ious = {run.colour: class_ious(best_row(run)) for run in runs}
    ious = {colour: values for colour, values in ious.items() if np.isfinite(values).any()}
    width, places = 0.8 / max(len(ious), 1), np.arange(len(NAMES))
    for index, (colour, values) in enumerate(ious.items()):
        offset = (index - (len(ious) - 1) / 2) * width
        axes.bar(places + offset, values, 0.92 * width, color=colour)
    labels = [name.replace("_", " ") for name in NAMES]
    axes.set_xticks(places, labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set(xlim=(-0.6, len(NAMES) - 0.4), ylim=(0, 100))
    nothing = "no IoU per class logged" if any(map(best_row, runs)) else "no evaluation yet"
    style_panel(axes, title, "" if ious else nothing)


def draw(runs: list[Run], smooth: float | None = None) -> Figure:
    """All panels; the loss as its mean over `smooth` steps, by default 1/50 of the longest run."""
    last = max((row["step"] for run in runs for row in run.rows), default=0)
    span = last / 50 if smooth is None else smooth
    figure = Figure(SIZE, layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)
    grid = figure.add_gridspec(3, 6)
    loss = figure.add_subplot(grid[0, :4], yscale="log")
    places = grid[0, 4:], grid[1, :2], grid[1, 2:4], grid[1, 4:]
    rate, *scores = [figure.add_subplot(place, sharex=loss) for place in places]

    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_minor_locator(NullLocator())
    title = f"loss, and its mean over {span:,.0f} steps" if span else "loss"
    draw_curves(loss, title, runs, "train/loss", span)
    draw_curves(rate, "learning rate", runs, "train/learning_rate")
    for axes, name in zip(scores, ("mIoU", "mAcc", "aAcc"), strict=True):
        draw_curves(axes, f"{name} (%)", runs, f"val/{name}")
        axes.set_xlabel("step", fontsize=9)
    classes = figure.add_subplot(grid[2, :])
    draw_classes(classes, "IoU per class at the best evaluation (%)", runs)
    lines = [loss.plot([], color=run.colour, linewidth=3)[0] for run in runs]
    texts = list(map(describe, runs))
    figure.legend(lines, texts, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_confusion(confusion: np.ndarray) -> Figure:
    """Where the pixels [19, 19] of each label (row) went, in percent of the label's."""
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
    labels = [name.replace("_", " ") for name in NAMES]
    places = np.arange(len(NAMES))
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, labels)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.set_facecolor("0.93")  # rows of classes that no label has
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="% of the label's pixels", pad=0.02)
    return figure


def save(figure: Figure, output: Path) -> None:
    """Writes the figure in the format of the suffix. Raises ValueError if it cannot."""
    try:
        with atomic_path(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:].lower(), dpi=DPI)
    except OSError as error:
        raise ValueError(
            f"--output {output} cannot be written ({error.strerror}); give a file in a folder with "
            "space that you may write to"
        ) from error


def plot(
    runs: list[Path],
    output: Path = Path("curves.png"),
    smooth: float | None = None,
    live: float | None = None,
) -> None:
    """Draws loss, learning rate, mIoU, mAcc, aAcc and IoU per class of runs as one figure.

    Args:
        runs: Folders of runs, finished or going on.
        output: File to write: .png, .pdf or .svg.
        smooth: Steps over which the loss is averaged, 0 for none; default: 1/50 of the longest run.
        live: Seconds between looks at the runs, to draw them anew until Ctrl-C; default: draw once.
    """
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"--output {output} does not end in one of {', '.join(FORMATS)}; add it")
    if not (smooth is None or smooth >= 0) or not (live is None or live > 0):
        raise ValueError(f"--smooth {smooth}, --live {live}: give steps ≥ 0 and seconds > 0")
    if live is not None:
        print(f"drawing {output} whenever there is news; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            for drawn in read_changes(runs, live):
                save(draw(drawn, smooth), output)
        return
    drawn = read_runs(runs)
    for folder, run in zip(runs, drawn, strict=True):
        if not run.rows:
            raise ValueError(
                f"{folder / METRICS} holds no row yet; the first comes after log_every steps: try "
                "again then, or add --live 30"
            )
    save(draw(drawn, smooth), output)
    print(f"written to {output}")


def main() -> None:
    """Command line of `plot`."""
    import tyro

    config = (tyro.conf.PositionalRequiredArgs,)
    tyro.cli(plot, prog="python -m jaxparse.plot", config=config)


if __name__ == "__main__":
    cli.run(main)
