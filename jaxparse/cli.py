"""What every command shares: errors that end in one line, and the progress bar."""

import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

INTERRUPTED = 130  # what a shell gives for a program that Ctrl-C ended


def run(main: Callable[[], int | None]) -> NoReturn:
    """Exits with the code that `main` returns (None is 0), or with one line on stderr.

    What users can mend comes as ValueError (bad input) or OSError (disk full, no permission) and
    exits with 1; Ctrl-C exits with 130. Any other error is a bug and keeps its trace.
    """
    try:
        code = main() or 0
    except BaseException as error:
        code = report(error)
    raise SystemExit(code)


def report(error: BaseException) -> int:
    """Prints the line of an error that users can mend, or raises it; returns the exit code."""
    if isinstance(error, (OSError, ValueError)):
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    raise error


class RateColumn(ProgressColumn):
    """Steps of the bar per second, over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


def progress_bar(console: Console) -> Progress:
    """A bar with count, rate and time left, on stderr for commands whose stdout is a result."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
    )
