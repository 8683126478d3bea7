"""Damages thousands of files and command lines, and counts what the commands make of them.

    python benchmarks/fuzz.py [--cases 10000] [--seed 0] [--kind KIND] [--jobs 1] [--keep DIR]

A case is fine if the file is read as it was, or refused in one line that names it. Exceptions that
escape, hangs, too much memory, and damage that is accepted although the file has checksums are
faults; their files are kept. Case NUMBER of a kind is always the same for a seed.
"""

import argparse
import faulthandler
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/ is not installed

from jaxparse.cli import progress_bar  # noqa: E402
from tests.fuzzing.judge import SECONDS, Outcome, run_cases  # noqa: E402
from tests.fuzzing.kinds import KINDS, cases_of  # noqa: E402

AT_ONCE = 100  # cases of a kind that a worker runs before it reports
MEMORY = 4 << 30  # bytes that a worker may add to what its libraries take


class Batch(NamedTuple):
    """Some cases of a kind."""

    kind: str
    seed: int
    numbers: range


def start_worker(log: Path) -> None:
    """Limits the memory; decoders' own complaints go to the log."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY,) * 2)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
    faulthandler.enable(2)
    logging.disable(logging.CRITICAL)


def run_batch(batch: Batch) -> list[Outcome]:
    """The outcomes of a batch, without the bytes of cases that are fine."""
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        seed = f"{batch.seed} {batch.kind}"
        cases = run_cases(KINDS[batch.kind], Path(folder).resolve(), seed, batch.numbers)
        outcomes = []
        for outcome in cases:
            # Decoders that loop heed no signal: ends the worker, as a crash does.
            faulthandler.dump_traceback_later(10 * SECONDS, exit=True, file=2)
            outcomes.append(outcome if outcome.verdict == "fault" else outcome._replace(data=b""))
        faulthandler.cancel_dump_traceback_later()
        return outcomes


def make_batches(counts: dict[str, int], seed: int) -> list[Batch]:
    return [
        Batch(kind, seed, range(first, min(first + AT_ONCE, count)))
        for kind, count in counts.items()
        for first in range(0, count, AT_ONCE)
    ]


def run_all(batches: list[Batch], jobs: int, log: Path) -> Iterator[tuple[Batch, list[Outcome]]]:
    """The outcomes of every batch, as they are done. Processes are not forked: jax has threads."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, start_worker, (log,)) as pool:
        futures = {pool.submit(run_batch, batch): batch for batch in batches}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                batch = futures[future]
                line = (
                    f"a worker was killed at {batch.kind} {batch.numbers} or beside it: see {log}"
                )
                raise SystemExit(line) from None


def report_faults(batch: Batch, outcomes: list[Outcome], keep: Path, console: Console) -> None:
    """A line per fault; its file is kept."""
    for number, outcome in zip(batch.numbers, outcomes, strict=True):
        if outcome.verdict == "fault":
            name = Path(outcome.case.split(", ")[0]).name
            kept = keep / f"{batch.kind.replace(' ', '_')}_{batch.seed}_{number}_{name}"
            kept.write_bytes(outcome.data)
            line = f"{batch.kind} {number} ({outcome.case}): {outcome.text} [{kept}]"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def outcome_table(found: dict[str, list[Outcome]], seconds: float) -> Table:
    """One row per kind."""
    columns = ("cases", "equal", "other", "refused", "faults", "longest s")
    caption = f"{seconds:.0f} s; equal: read as it was; other: read, and no checksum says otherwise"
    table = Table("kind", caption=caption)
    for column in columns:
        table.add_column(column, justify="right")
    verdicts = ("equal", "other", "refused", "fault")
    for kind, outcomes in found.items():
        counts = Counter(outcome.verdict for outcome in outcomes)
        longest = max(outcome.seconds for outcome in outcomes)
        figures = [len(outcomes), *(counts[verdict] for verdict in verdicts)]
        table.add_row(kind, *map(str, figures), f"{longest:.2f}")
    every = [outcome for outcomes in found.values() for outcome in outcomes]
    counts = Counter(outcome.verdict for outcome in every)
    table.add_section()
    table.add_row("all", str(len(every)), *(str(counts[verdict]) for verdict in verdicts), "")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files of faults")
    args = parser.parse_args()
    keep = args.keep or Path(tempfile.mkdtemp(prefix="fuzz_faults_"))
    keep.mkdir(parents=True, exist_ok=True)
    counts = cases_of(args.cases, args.kind or list(KINDS))
    console, began = Console(), time.perf_counter()
    found: dict[str, list[Outcome]] = {kind: [] for kind in counts}
    with progress_bar(console) as bar:
        task = bar.add_task("damaging", total=sum(counts.values()))
        for batch, outcomes in run_all(make_batches(counts, args.seed), args.jobs, keep / "log"):
            found[batch.kind] += outcomes
            report_faults(batch, outcomes, keep, console)
            bar.advance(task, len(outcomes))
    console.print(outcome_table(found, time.perf_counter() - began))
    sys.exit(any(o.verdict == "fault" for outcomes in found.values() for o in outcomes))


if __name__ == "__main__":
    main()
