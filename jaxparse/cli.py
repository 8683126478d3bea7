"""What every command shares: its command line, errors that end in one line, progress bars."""

import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jaxparse import cuda
from jaxparse.classes import Classes, load_classes
from jaxparse.files import FaultsError, atomic_path, being_read

if TYPE_CHECKING:
    import tyro

BROKEN_PIPE = 141  # a shell's exit code for a program whose reader has left
INTERRUPTED = 130  # and for one that Ctrl-C ended
COMPILING = "compiling, once"  # before the first step or picture of a machine

T = TypeVar("T")


def prog(name: str) -> str:
    """How the user called the command `name`: `jaxparse NAME` or `python -m jaxparse.NAME`."""
    return sys.argv[0] if sys.argv[0] == f"jaxparse {name}" else f"python -m jaxparse.{name}"


def line_for_shell(name: str, *words: object) -> str:
    """The command `name` with its words, each quoted where a shell needs it."""
    return shlex.join(["python", "-m", f"jaxparse.{name}", *map(str, words)])


def counted(count: int, noun: str) -> str:
    """`1 mask`, `2 masks`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def show(console: Console, line: str) -> None:
    """Prints a line that people copy and search, paths among it: not wrapped, no markup."""
    console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


def command(
    function: Callable[..., int | None],
    name: str,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> int | None:
    """Calls `function` with the flags of the command line, one for each of its parameters.

    `aliases` are further names of flags: alias -> flag, or -> "" for positional arguments.
    """
    import tyro  # here: this module is imported by loader workers, and tyro takes 0.2 s

    args = arranged(sys.argv[1:], aliases)
    return tyro.cli(function, prog=prog(name), args=args, registry=flag_types())


def arranged(words: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    """The words with flags by their own names, and positional arguments given by flag in front."""
    first: list[str] = []
    to = rest = list[str]()
    for word in words:
        flag, *value = word.partition("=")
        if aliases.get(flag) == "":
            to = first
            first += [value[1]] * bool(value[0])
            continue
        to = rest if word.startswith("-") else to
        to.append("".join((aliases.get(flag, flag), *value)))
    return first + rest


def flag_types() -> "tyro.constructors.ConstructorRegistry":
    """How flags become values of our own types: a table of classes is named or a file."""
    from tyro import constructors

    registry = constructors.ConstructorRegistry()

    @registry.primitive_rule
    def classes(
        about: constructors.PrimitiveTypeInfo,
    ) -> constructors.PrimitiveConstructorSpec | None:
        if about.type not in (Classes, Classes | None):
            return None
        optional = about.type is not Classes
        return constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="NAME|FILE.json",
            instance_from_str=lambda args: (
                None if optional and args == ["none"] else load_classes(args[0])
            ),
            is_instance=lambda instance: isinstance(instance, about.type),
            str_from_instance=lambda instance: [str(instance or "none")],
        )

    return registry


def run(main: Callable[[], int | None]) -> NoReturn:
    """Exits with the code that `main` returns (None is 0), or with one line on stderr.

    Errors that users can fix are ValueError (bad input) or OSError (disk full, no permission) and
    exit with 1; a FaultsError has several lines. So do errors of a GPU that `cuda` explains. Ctrl-C
    exits with 130. Any other error is a bug and keeps its traceback. Python's warnings are shown as
    one line each. What the terminal cannot show is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8
    cuda.shorten_logs()
    sys.unraisablehook = partial(interrupt_again, sys.unraisablehook)
    warnings.showwarning = show_warning
    warnings.filterwarnings("always", module="PIL")  # for each picture
    # Pillow's of half the size that it refuses: in a message of our own.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    try:
        code = main() or 0
        sys.stdout.flush()  # here, where a reader that has left is no error
    except BaseException as error:
        code = print_error(error)
    raise SystemExit(code)


def interrupt_again(
    show: Callable[["sys.UnraisableHookArgs"], object],  # a name for type checkers only
    unraisable: "sys.UnraisableHookArgs",
) -> None:
    """Sends Ctrl-C once more where it is lost: in code that runs as garbage is collected, as JAX's.

    A moment later: at once it would be raised in here.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        show(unraisable)


def print_error(error: BaseException) -> int:
    """Prints the line of an error that users can fix and returns the exit code; raises others."""
    if isinstance(error, BrokenPipeError):  # `jaxparse ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, (OSError, ValueError)):
        lines = isinstance(error, FaultsError)
        print("error:", error if lines else " ".join(str(error).split()), file=sys.stderr)
        return 1
    if isinstance(error, RuntimeError) and (line := cuda.explained(str(error))):
        print("error:", line, file=sys.stderr)
        return 1
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    raise error


def show_warning(message: Warning | str, *where: object) -> None:
    """Prints a warning with the file that is being read, without the line of code it comes from."""
    path = being_read.get()
    print("warning:", " ".join(f"{path}: {message}".split()) if path else message, file=sys.stderr)


class RateColumn(ProgressColumn):
    """Steps of the bar per second, over the last half minute; none in the first second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None or task.elapsed < 1:
            return Text("")
        return Text(f"{speed:.0f}/s" if speed >= 100 else f"{speed:#.3g}/s")


@contextmanager
def written(output: Path) -> Iterator[Path]:
    """As `files.atomic_path`, and a line that says whether another file was there."""
    replaced = ", in place of the file that was there" if output.exists() else ""
    with atomic_path(output) as temporary:
        yield temporary
    print(f"written to {output}{replaced}")


@contextmanager
def busy(doing: str = COMPILING) -> Iterator[None]:
    """While the block runs, a spinner with the time it takes, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        progress.add_task(doing)
        yield


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


def track(
    items: Iterable[T], total: int, doing: str, quiet: bool = False, first: str = ""
) -> Iterator[T]:
    """The items, with a progress bar on stderr that is titled `doing`.

    `first` is the title until the first item is there, if that takes longer than the others: its
    time counts in no estimate.
    """
    with progress_bar(Console(stderr=True, quiet=quiet)) as progress:
        task = progress.add_task(first or doing, total=total, start=not first)
        for item in items:
            if first and not progress.tasks[task].started:
                progress.start_task(task)
                progress.update(task, description=doing)
            yield item
            progress.advance(task)
