"""What goes wrong around a run: signals, a second run in its folder, disks that take no more."""

import fcntl
import json
import logging
import os
import re
import signal
import socket
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SUMS = "crc32.json"  # in a sealed folder: of what is in its folders


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The list of SIGINT and SIGTERM received in the block; a second one ends the process."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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


def quiet_aftermath() -> None:
    """Keeps the hundred traces off the terminal that follow an orbax read or write that failed.

    The first failure is raised and told; asyncio then logs, and tensorstore's callbacks print, one
    more for each array that was under way.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def hook(unraisable: Any) -> None:  # noqa: ANN401
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = hook


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file in the folder's folders, by relative path."""
    return {
        str(path.relative_to(folder)): _crc32(path)
        for path in sorted(folder.glob("*/**/*"))
        if path.is_file()
    }


def _crc32(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            total = zlib.crc32(chunk, total)
    return total


def seal(folder: Path) -> None:
    """Writes down the checksums; files beside the folders may still change, as orbax's do."""
    (folder / SUMS).write_text(json.dumps(checksums(folder), indent=1))


def require_intact(folder: Path) -> None:
    """Raises ValueError naming a file that is not as it was sealed; a folder unsealed passes."""
    if not (folder / SUMS).is_file():
        return
    found = checksums(folder)
    for name, total in json.loads((folder / SUMS).read_text()).items():
        if found.get(name) != total:
            raise ValueError(f"{name} is {'damaged' if name in found else 'missing'}")
