"""What becomes of a damaged file: read as it was, read as something else, refused, or a fault."""

import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import numpy as np

from tests.fuzzing.damage import Damage

LONGEST = 600  # characters of a message, the temporary folder's name aside
SECONDS = 10  # that a case may take

Verdict = Literal["equal", "other", "refused", "fault"]


class Kind(NamedTuple):
    """What is spoilt: files by their path in a folder, and the function that reads one of them.

    With `sums` a damaged file must be refused, or give the values that the whole one gives.
    `named` is what messages call the file, by default its name.
    """

    originals: Mapping[str, bytes]
    damages: Mapping[str, Damage]
    read: Callable[[Path], Any]
    sums: bool = False
    named: str = ""


class Outcome(NamedTuple):
    """One case: the verdict, which file and damage, the message or the fault, the damaged bytes."""

    verdict: Verdict
    case: str
    text: str
    seconds: float
    data: bytes


class HangError(BaseException):
    """Not an Exception: what is tested catches those."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises HangError in the block after so many seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def same(first: object, second: object) -> bool:
    """Equality of dicts, sequences and arrays, type and shape included."""
    if isinstance(first, np.ndarray):
        kinds = (first.dtype, first.shape) == (second.dtype, second.shape)
        return kinds and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def flaw(error: BaseException, name: str, folder: Path) -> str | None:
    """What is wrong with a refusal: one line, short enough, that names the file."""
    if isinstance(error, SystemExit) and error.code == 2:  # of the command line, printed already
        return None
    if not isinstance(error, ValueError | OSError):
        return f"{type(error).__name__} escapes"
    text = str(error).replace(str(folder), "")
    if not text.isprintable():
        return "message of several lines, or with control characters"
    if name not in text:
        return f"message without {name}"
    return f"message of {len(text)} characters" if len(text) > LONGEST else None


def judge(kind: Kind, path: Path, folder: Path, expected: object) -> tuple[Verdict, str]:
    """Reads the file: the verdict and a text."""
    try:
        with time_limit(SECONDS), warnings.catch_warnings(action="ignore"):
            value = kind.read(path)
    except HangError:
        return "fault", f"takes longer than {SECONDS} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        wrong = flaw(error, kind.named or path.name, folder)
        return ("fault", f"{wrong}: {text[:300]!r}") if wrong else ("refused", text)
    if same(expected, value):
        return "equal", ""
    return ("fault", "damage is accepted") if kind.sums else ("other", "")


def run_case(
    kind: Kind, folder: Path, expected: Mapping[str, object], rng: random.Random
) -> Outcome:
    """Damages a file of the kind in its folder, judges what becomes of it, puts the file back."""
    name = rng.choice(sorted(kind.originals))
    damage = rng.choice(sorted(kind.damages))
    original = kind.originals[name]
    path = folder / name
    spoilt = kind.damages[damage](rng, original, kind.originals[rng.choice(sorted(kind.originals))])
    path.write_bytes(spoilt)
    began = time.perf_counter()
    verdict, text = judge(kind, path, folder, expected[name])
    seconds = time.perf_counter() - began
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(original)
    return Outcome(verdict, f"{name}, {damage}", text, seconds, spoilt)


def run_cases(
    make: Callable[[Path], Kind], folder: Path, seed: str, numbers: range
) -> Iterator[Outcome]:
    """The cases of these numbers; each depends on the seed and its number alone.

    The whole files are read first: raises what that raises.
    """
    kind = make(folder)
    for name, data in kind.originals.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    expected = {name: kind.read(folder / name) for name in kind.originals}
    for number in numbers:
        yield run_case(kind, folder, expected, random.Random(f"{seed} {number}"))
