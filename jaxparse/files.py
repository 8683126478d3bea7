"""Files that are either whole or absent: written to a temporary name, then renamed."""

import fcntl
import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block ends without an error.

    The temporary name keeps the suffix, since libraries choose the format by it. Folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_ahead(read: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """`map(read, items)` in threads, in order, at most 2 * num_threads results ahead."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending = deque()
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def sole_run(workdir: str | Path) -> Iterator[None]:
    """Holds the folder for one run; makes it, and removes what a killed run left half-written.

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
                "its end or stop it, or give another folder"
            ) from error
        except OSError as error:  # some network file systems have no locks; runs went without
            logging.getLogger(__name__).warning("%s cannot be locked: %s", workdir, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        # files.atomic_path's names for what a run itself writes; other commands may be at work.
        for path in folder.iterdir():
            if re.fullmatch(r"\.(config|metrics|best|examples)\.\d+\.\w+", path.name):
                path.unlink()
        yield


@contextmanager
def writing(what: str, folder: str | Path, kept: str) -> Iterator[None]:
    """Turns the errors of a failed write into one OSError that names the folder and the remedy.

    `kept` says what is on disk nonetheless. tensorstore reports a full disk as ValueError,
    TensorFlow as an error of its own.
    """
    try:
        yield
    except Exception as error:
        raise OSError(
            f"cannot write {what} to {folder} ({reason(error)}); {kept}: free space there or mend "
            "the cause, then the same command goes on"
        ) from error


def reason(error: Exception) -> str:
    """A short line on an error whose own text may be pages long."""
    text = " ".join(str(error).split()) or type(error).__name__
    # tensorstore: ...: No space left on device [os_error_code='28' ...
    if system := re.search(r"([^:\[\]]+) \[os_error_code", text):
        return system[1].strip()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return text if len(text) <= 120 else f"{text[:120]}…"
