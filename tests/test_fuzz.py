"""A few hundred damaged files; benchmarks/fuzz.py runs thousands."""

import logging
from pathlib import Path

import pytest

from tests.foreign import NEEDS_TORCH
from tests.fuzzing.judge import run_cases
from tests.fuzzing.kinds import KINDS, NEEDING_TORCH, cases_of

COUNTS = cases_of(320, [kind for kind in KINDS if kind != "figures"]) | {"figures": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_as_they_were_or_refused_in_a_line(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if kind in NEEDING_TORCH:
        pytest.importorskip("torch", reason=NEEDS_TORCH)
    caplog.set_level(logging.CRITICAL)  # orbax logs what it then does without
    outcomes = list(run_cases(KINDS[kind], tmp_path, f"suite {kind}", range(COUNTS[kind])))
    assert [outcome[:3] for outcome in outcomes if outcome.verdict == "fault"] == []
    assert len(outcomes) == COUNTS[kind]
