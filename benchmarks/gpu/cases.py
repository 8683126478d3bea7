"""Measurements, each in a process of its own, and the JSON file that keeps their figures.

A process of its own has its own peak memory and compiler flags, and may fail, hang or run out of
memory without the others.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.table import Table

from jaxparse.files import atomic_path

ROOT = Path(__file__).parent.parent.parent
QUICK = "tests/mini.py"  # the experiment with which this script is tried on a CPU
NOTHING: Mapping[str, str] = MappingProxyType({})
Figures = dict[str, Any]


class Case(NamedTuple):
    """A function of this folder, "module:name", that returns figures, and what it is given."""

    name: str
    function: str
    arguments: dict[str, Any]
    flags: str = ""  # added to XLA_FLAGS


def run(case: Case, seconds: float, environment: Mapping[str, str] = NOTHING) -> Figures:
    """The case's figures, or {"error": one line} if it fails or takes longer."""
    arguments = [case.function, json.dumps(case.arguments)]
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {case.flags}".strip()}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu.cases", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment, **flags},
        start_new_session=True,
    ) as process:
        try:
            out, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            return {"error": f"no end within {seconds:.0f} s"}
    if process.returncode:
        return {"error": last_line(error) or f"exit code {process.returncode}"}
    return json.loads(out.splitlines()[-1])


def last_line(text: str) -> str:
    """The last line that is not empty, at most 200 characters of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


class Results:
    """The figures by part and case, in a JSON file that is complete after each case.

    Raises ValueError if the file exists and holds anything else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: dict[str, dict[str, Figures]] = {}
        if path.exists():
            try:
                self.parts = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is not JSON ({error}); give another --output") from error

    def has(self, part: str, name: str) -> bool:
        """Whether the case was measured, rather than failed or not tried."""
        return "error" not in self.parts.get(part, {}).get(name, {"error": ""})

    def put(self, part: str, name: str, figures: Figures) -> None:
        self.parts.setdefault(part, {})[name] = figures
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.parts, indent=1) + "\n")


def as_text(value: object) -> str:
    """A figure as the tables show it: four digits, a list as lines."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def table(part: str, cases: dict[str, Figures]) -> Table:
    """A row for each case, a column for each name of a figure, in the order of their coming."""
    columns = list(dict.fromkeys(name for figures in cases.values() for name in figures))
    shown = Table(part, *columns)
    for name, figures in cases.items():
        shown.add_row(name, *(as_text(figures.get(column)) for column in columns))
    return shown


def main() -> None:
    """In the process of a case: calls the function, prints its figures as the last line."""
    module, name = sys.argv[1].split(":")
    function = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)
    print("\n" + json.dumps(function(**json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
