"""Curves of runs as one figure: loss, learning rate, scores, IoU per class."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which keeps figures and chooses a backend
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from jaxparse.training.logs import IOU, Run, best_row, class_ious, class_names, series

SIZE = (11, 8)  # inches


def centred_mean(steps: np.ndarray, values: np.ndarray, span: float) -> np.ndarray:
    """[N] mean of the values within span / 2 steps of each step; fewer values at the ends.

    An exponential mean would lag behind and depend on how often a run was logged.
    """
    first = np.searchsorted(steps, steps - span / 2, side="left")
    after = np.searchsorted(steps, steps + span / 2, side="right")
    sums = np.concatenate([[0], np.cumsum(values)])
    return (sums[after] - sums[first]) / (after - first)


def describe(run: Run) -> str:
    """The run's line in the legend."""
    if not (best := best_row(run)):
        return f"{run.label}: no evaluation yet"
    note = "" if any(name.startswith(IOU) for name in best) else "; no IoU per class logged"
    return f"{run.label}: best mIoU {100 * best['val/mIoU']:.2f} % at step {best['step']:,}{note}"


def style_panel(axes: Axes, title: str, empty: str = "") -> None:
    """Title, grid and colours of a panel; `empty` is written in it when nothing is drawn."""
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
    """A line per run; with a `span` (steps), its centred mean, and a thin line of the values."""
    evaluations = name.startswith("val/")
    curves = [series(run, name) for run in runs]
    for run, (steps, values) in zip(runs, curves, strict=True):
        values = values * (100 if evaluations else 1)
        # Evaluations are few, so a dot each; a single value makes no line.
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
    """A group of bars per class, with a bar per run that logged IoU per class."""
    names = class_names(runs)
    ious = {run.colour: class_ious(best_row(run), names) for run in runs}
    ious = {colour: values for colour, values in ious.items() if np.isfinite(values).any()}
    width, places = 0.8 / max(len(ious), 1), np.arange(len(names))
    for index, (colour, values) in enumerate(ious.items()):
        offset = (index - (len(ious) - 1) / 2) * width
        axes.bar(places + offset, values, 0.92 * width, color=colour)
    labels = [name.replace("_", " ") for name in names]
    axes.set_xticks(places, labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, 100))
    nothing = "no IoU per class logged" if any(map(best_row, runs)) else "no evaluation yet"
    style_panel(axes, title, "" if ious else nothing)


def draw(runs: list[Run], smooth: float | None = None) -> Figure:
    """All panels. The loss is averaged over `smooth` steps, by default 1/50 of the longest run."""
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
    style = {"loc": "outside upper left", "ncols": 2, "frameon": False, "fontsize": 9}
    legend = figure.legend(lines, ["run"] * len(lines), **style)
    for text, run in zip(legend.get_texts(), runs, strict=True):
        # Set afterwards: a label that begins with _ is left out, and $ would begin a formula.
        text.set(text=describe(run), parse_math=False)
    return figure
