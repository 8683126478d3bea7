"""A few hundred damaged files; benchmarks/fuzz.py runs thousands."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.clips import require_av
from tests.foreign import NEEDS_TORCH
from tests.fuzzing import judge
from tests.fuzzing.judge import run_cases
from tests.fuzzing.kinds import KINDS, NEEDING_TORCH, cases_of

COUNTS = cases_of(320, [kind for kind in KINDS if kind != "figures"]) | {"figures": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_as_they_were_or_refused_in_a_line(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if kind in NEEDING_TORCH:
        pytest.importorskip("torch", reason=NEEDS_TORCH)
    if kind == "clips":
        require_av()
    caplog.set_level(logging.CRITICAL)  # orbax logs what it then does without
    outcomes = list(run_cases(KINDS[kind], tmp_path, f"suite {kind}", range(COUNTS[kind])))
    assert [outcome[:3] for outcome in outcomes if outcome.verdict == "fault"] == []
    assert len(outcomes) == COUNTS[kind]


def fail(error: Exception) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    "read, verdict, word",
    [
        (lambda path: b"whole", "equal", ""),
        (lambda path: path.read_bytes(), "fault", "accepted"),
        (lambda path: fail(ValueError(f"{path} is cut short")), "refused", "cut short"),
        (lambda path: fail(KeyError("a.bin")), "fault", "KeyError escapes"),
        (lambda path: fail(ValueError("cut short")), "fault", "without a.bin"),
        (lambda path: fail(ValueError(f"{path}\ncut short")), "fault", "lines"),
        (lambda path: fail(ValueError(f"{path} {'x' * 999}")), "fault", "characters"),
        (lambda path: time.sleep(9), "fault", "longer"),
    ],
)
def test_the_judge(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], object],
    verdict: str,
    word: str,
) -> None:
    monkeypatch.setattr(judge, "SECONDS", 0.05)
    path = tmp_path / "a.bin"
    path.write_bytes(b"who")
    kind = judge.Kind({"a.bin": b"whole"}, {}, read, sums=True)
    found, text = judge.judge(kind, path, tmp_path, b"whole")
    assert found == verdict and word in text
