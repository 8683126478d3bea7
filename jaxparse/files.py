"""Atomic writes, run locks, failed writes, what is being read, reading ahead in threads."""

import fcntl
import json
import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

WRITTEN = "config|metrics|best|best_ema|data|examples|mask_classes"  # stems of a run's own files

T = TypeVar("T")
R = TypeVar("R")

# The file that this thread is reading, to be named in warnings of the libraries that decode it.
being_read: ContextVar[Path | None] = ContextVar("being_read", default=None)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The block reads the file: sets `being_read`."""
    token = being_read.set(path)
    try:
        yield
    finally:
        being_read.reset(token)


def read_json(path: Path, fix: str = "") -> Any:  # noqa: ANN401
    """What the file holds, in UTF-8 or UTF-16, with a byte order mark or without.

    Raises ValueError, which ends in `fix`, if that is not JSON.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8; {fix or 'save it in UTF-8'}") from error
    except (RecursionError, ValueError) as error:  # ValueError: also of numbers of 4300 digits
        raise ValueError(f"{path} is not JSON ({reason(error)}){fix and f'; {fix}'}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; json keeps the last of two values of a key without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {brief(next(k for k in keys if keys.count(k) > 1))} is there twice")
    return found


class FaultsError(ValueError):
    """Several faults, of which a command shows each on a line of its own."""

    def __init__(self, what: str, lines: Sequence[str]) -> None:
        super().__init__("\n".join([what, *lines]))


def require_writable_file(path: Path, flag: str = "--output") -> None:
    """Raises ValueError, naming the flag, unless the file can be written: before long work.

    Its folder need not exist yet.
    """
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder; give the name of a file")
    _require_writable(path.parent, path, flag)


def require_writable_folder(path: Path, flag: str = "--output") -> None:
    """As `require_writable_file`, for files in the folder `path`."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{flag} {path} is a file; give a folder")
    _require_writable(path, path, flag)


def _require_writable(folder: Path, path: Path, flag: str) -> None:
    while not folder.exists():
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{flag} {path} cannot be written: {folder}: {reason(error)}; give a place with space "
            "that you may write to"
        ) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block ends without an error.

    The temporary name keeps the suffix, since libraries choose the format by it. Missing folders
    are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def sole_run(workdir: str | Path) -> Iterator[None]:
    """Locks the folder for one run; creates it, and removes half-written files of a killed run.

    The lock ends with the process, however that ends. Raises ValueError naming the holder.
    """
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(
                f"{workdir} is in use by a run, {file.read().strip() or 'just starting'}: wait for "
                "it to end or stop it, or give another folder"
            ) from error
        except OSError as error:  # some network file systems have no locks
            logging.getLogger(__name__).warning("%s cannot be locked: %s", workdir, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        # atomic_path's names of the files that a run writes; other commands may be at work here.
        for path in folder.iterdir():
            if re.fullmatch(rf"\.({WRITTEN})\.\d+\.\w+", path.name):
                path.unlink()
        yield


@contextmanager
def writing(what: str, folder: str | Path, kept: str) -> Iterator[None]:
    """Turns the errors of a failed write into one OSError that names the folder and the fix.

    `kept` says what is still on disk. tensorstore reports a full disk as ValueError, TensorFlow as
    an error of its own.
    """
    try:
        yield
    except Exception as error:
        raise OSError(
            f"cannot write {what} to {folder} ({reason(error)}); {kept}: free space there or fix "
            "the cause, then run the same command again to resume"
        ) from error


def brief(value: object) -> str:
    """What a file or a flag holds, for a message: one line of at most 120 characters.

    Control characters are escaped: a terminal would obey them.
    """
    text = str(value)
    if not text.isprintable():
        text = text[:120].encode("unicode_escape").decode()
    return text if len(text) <= 120 else f"{text[:120]}…"


def unusable(package: str, extra: str, error: ImportError) -> str:
    """A line on an optional package that cannot be imported: whether it is missing, and the fix."""
    broken = find_spec(package) is not None
    fault = "cannot be imported" if broken else "is missing"
    pip = "pip install --upgrade" if broken else "pip install"
    return f'{package} {fault} ({reason(error)}); run: {pip} "jaxparse[{extra}]"'


def reason(error: BaseException) -> str:
    """The first sentence of an exception's text, in at most 120 characters."""
    # tensorstore: ...: No space left on device [os_error_code='28' ...
    if system := re.search(r"([^:\[\]]+) \[os_error_code", str(error)):
        return system[1].strip()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(re.split(r"\.\s|\n", str(error).strip())[0].split())
    text = text or type(error).__name__
    if not text.isprintable():  # it quotes what a damaged file holds
        text = text.encode("unicode_escape").decode()
    return text if len(text) <= 120 else f"{text[:120]}…"


def read_ahead(
    work: Callable[[T], R], items: Iterable[T], num_threads: int
) -> Iterator[tuple[T, R | ValueError]]:
    """(item, work(item)) in order, computed in threads, at most 2 * num_threads results ahead.

    A ValueError of `work` comes as the result, for the caller to report; any other error is raised.
    """

    def attempt(item: T) -> tuple[T, R | ValueError]:
        try:
            return item, work(item)
        except ValueError as error:
            return item, error

    pool, pending = ThreadPoolExecutor(num_threads), deque()
    try:
        for item in items:
            pending.append(pool.submit(attempt, item))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the queue


def results(pairs: Iterable[tuple[T, R | ValueError]]) -> Iterator[R]:
    """The results of `read_ahead`, where an error ends the work: raises the first ValueError."""
    for _, result in pairs:
        if isinstance(result, ValueError):
            raise result
        yield result
