"""What every command shares: its command line, errors that end in one line, progress bars."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NoReturn, TypeVar

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

INTERRUPTED = 130  # a shell's exit code for a program that Ctrl-C ended
BROKEN_PIPE = 141  # and for one whose reader has left

T = TypeVar("T")


def prog(name: str) -> str:
    """How the user called the command `name`: `jaxparse NAME` or `python -m jaxparse.NAME`."""
    return sys.argv[0] if sys.argv[0] == f"jaxparse {name}" else f"python -m jaxparse.{name}"


def line_for_shell(name: str, *words: object) -> str:
    """The command `name` with its words, each quoted where a shell needs it."""
    return shlex.join(["python", "-m", f"jaxparse.{name}", *map(str, words)])


def show(console: Console, line: str) -> None:
    """Prints a line that people copy and search, paths among it: not wrapped, no markup."""
    console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


def command(
    function: Callable[..., int | None],
    name: str,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> int | None:
    """Calls `function` with the flags of the command line, one for each of its parameters.

    `aliases` are further names of flags: alias -> flag.
    """
    import tyro  # here: this module is imported by loader workers, and tyro takes 0.2 s

    words = (word.partition("=") for word in sys.argv[1:])
    args = ["".join((aliases.get(flag, flag), *value)) for flag, *value in words]
    return tyro.cli(function, prog=prog(name), args=args)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Exits with the code that `main` returns (None is 0), or with one line on stderr.

    Errors that users can fix are ValueError (bad input) or OSError (disk full, no permission) and
    exit with 1; Ctrl-C exits with 130. Any other error is a bug and keeps its traceback.
    """
    try:
        code = main() or 0
        sys.stdout.flush()  # here, where a reader that has left is no error
    except BaseException as error:
        code = print_error(error)
    raise SystemExit(code)


def print_error(error: BaseException) -> int:
    """Prints the line of an error that users can fix and returns the exit code; raises others."""
    if isinstance(error, BrokenPipeError):  # `jaxparse ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
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


def track(items: Iterable[T], total: int, doing: str, quiet: bool = False) -> Iterator[T]:
    """The items, with a progress bar on stderr that is titled `doing`."""
    with progress_bar(Console(stderr=True, quiet=quiet)) as progress:
        yield from progress.track(items, total=total, description=doing)
