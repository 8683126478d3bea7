"""Curves of finished, stopped or running runs, from their metrics.jsonl only.

    python -m jaxparse.plot runs/swin_t runs/swin_b --output curves.png

Loss, learning rate, mIoU, mAcc and aAcc of each evaluation, and IoU per class at the best one.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("plot")

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from matplotlib.figure import Figure
from tyro.conf import Positional

from jaxparse import cli
from jaxparse.files import atomic_path, require_writable_file
from jaxparse.training.curves import draw
from jaxparse.training.logs import METRICS, Run, read_runs

FORMATS = (".png", ".pdf", ".svg")
DPI = 150  # pixels per inch of a .png


def read_changes(folders: list[Path], seconds: float) -> Iterator[list[Run]]:
    """The runs now, then again after every change; looks at them every `seconds`."""
    before = None
    while True:
        runs = read_runs(folders)
        if runs != before:
            yield runs
        before = runs
        time.sleep(seconds)


def save(figure: Figure, output: Path) -> None:
    """Writes the figure in the format of the suffix."""
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=output.suffix[1:].lower(), dpi=DPI)


def plot(
    runs: Positional[list[Path]],
    output: Path = Path("curves.png"),
    smooth: float | None = None,
    live: float | None = None,
) -> None:
    """Draws loss, learning rate, mIoU, mAcc, aAcc and IoU per class of runs in one figure.

    Args:
        runs: Folders of runs, finished or running.
        output: File to write: .png, .pdf or .svg.
        smooth: Steps over which the loss is averaged, 0 for none; default: 1/50 of the longest run.
        live: Redraw until Ctrl-C, looking for new rows every so many seconds; default: draw once.
    """
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"--output {output} must end in one of {', '.join(FORMATS)}")
    require_writable_file(output)
    if not (smooth is None or smooth >= 0) or not (live is None or live > 0):
        raise ValueError(f"--smooth {smooth}, --live {live}: give steps ≥ 0 and seconds > 0")
    if live is not None:
        print(f"redrawing {output} whenever a run has new rows; stop with Ctrl-C", flush=True)
        with suppress(KeyboardInterrupt):
            for drawn in read_changes(runs, live):
                save(draw(drawn, smooth), output)
        return
    drawn = read_runs(runs)
    for folder, run in zip(runs, drawn, strict=True):
        if not run.rows:
            raise ValueError(
                f"{folder / METRICS} is empty; the first row comes after log_every steps: try "
                "again then, or add --live 30"
            )
    save(draw(drawn, smooth), output)
    print(f"written to {output}")


def main() -> None:
    """Command line of `plot`."""
    cli.command(plot, "plot")
