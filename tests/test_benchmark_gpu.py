"""What benchmarks/gpu does with its figures; the measurements themselves need a GPU."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import exact, runs, speed
from benchmarks.gpu.cases import ROOT, Case, Results, as_text, last_line, run, table
from benchmarks.gpu.kernels import Kernel, busy, kernels, read_trace, slowest
from jaxparse.config import load_experiment
from tests import reference

GPU, HOST = 1, 2


def named(kind: str, pid: int, tid: int, name: str) -> dict:
    return {"ph": "M", "name": f"{kind}_name", "pid": pid, "tid": tid, "args": {"name": name}}


def ran(name: str, pid: int, tid: int, start: float, duration: float, **args: str) -> dict:
    times = {"ts": start, "dur": duration}
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, "args": args, **times}


TRACE = [
    named("process", GPU, 0, "/device:GPU:0"),
    named("thread", GPU, 14, "Stream #14(Compute)"),
    named("thread", GPU, 15, "Stream #15(MemcpyD2D)"),
    named("thread", GPU, 20, "XLA Modules"),
    named("process", HOST, 0, "/host:CPU"),
    named("thread", HOST, 14, "Stream of words"),
    ran("gemm", GPU, 14, 100, 50, hlo_op="dot.1"),
    ran("gemm", GPU, 14, 300, 30, hlo_op="dot.1"),
    ran("copy", GPU, 15, 140, 20),
    ran("jit_step", GPU, 20, 100, 230),
    ran("fusion", HOST, 14, 0, 1000, hlo_op="fusion"),
]


def test_kernels_are_what_ran_in_the_streams_of_gpus() -> None:
    found = kernels(TRACE)
    assert found == [Kernel("gemm", 100, 50), Kernel("gemm", 300, 30), Kernel("copy", 140, 20)]
    assert busy(found) == 60 + 30  # the copy overlaps the first product by 10
    assert slowest(found, steps=2) == [
        "0.040 ms in 1 runs, 80.0 %: gemm",
        "0.010 ms in 0.5 runs, 20.0 %: copy",
    ]
    assert len(slowest(found, steps=2, count=1)) == 1


def test_on_a_cpu_kernels_are_the_operations_of_programs() -> None:
    host = [event for event in TRACE if event["pid"] == HOST]
    assert kernels([*host, ran("python", HOST, 1, 0, 5)]) == [Kernel("fusion", 0, 1000)]


def test_the_newest_trace_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trace"):
        read_trace(tmp_path)
    for day in ("2026_01_02", "2026_01_01"):
        path = tmp_path / "plugins" / "profile" / day / "host.trace.json.gz"
        path.parent.mkdir(parents=True)
        with gzip.open(path, "wt") as file:
            json.dump({"traceEvents": [ran(day, HOST, 1, 0, 1)]}, file)
    assert [event["name"] for event in read_trace(tmp_path)] == ["2026_01_02"]


def test_results_are_kept_and_failures_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gpu.json"
    Results(path).put("speed", "a", {"ms": 1.5})
    again = Results(path)
    again.put("speed", "b", {"error": "no end within 3 s"})
    again.put("torch", "a", {"ms": 2.0})
    last = Results(path)
    assert [last.has("speed", name) for name in "abc"] == [True, False, False]
    assert last.parts == {
        "speed": {"a": {"ms": 1.5}, "b": {"error": "no end within 3 s"}},
        "torch": {"a": {"ms": 2.0}},
    }
    path.write_text("{")
    with pytest.raises(ValueError, match="another --output"):
        Results(path)


def test_a_table_has_a_column_for_each_figure() -> None:
    shown = table("speed", {"a": {"ms": 1234.5}, "b": {"ms": 0.123456, "slow": ["x", "y"]}})
    screen = Console(width=80, record=True, quiet=True)
    screen.print(shown)
    assert [column.header for column in shown.columns] == ["speed", "ms", "slow"]
    cells = [list(column.cells) for column in shown.columns]
    assert cells == [["a", "b"], ["1,234", "0.1235"], ["", "x\ny"]]
    assert as_text(None) == ""
    assert last_line("a\nValueError: b  \n\n") == "ValueError: b"


def test_ratios_compare_equal_cases() -> None:
    label = "swin_b, bfloat16, batch 16"
    ours = {"pictures/s": 300.0, "peak GB": 24.0}
    theirs = {"pictures/s": 200.0, "peak GB": 30.0, "ms, batch 1": 9.0}
    parts = {
        "speed": {f"train {label}": ours, "infer swin_b, bfloat16": {"ms, batch 1": 6.0}},
        "torch": {
            f"torch.compile {label}": theirs,
            f"eager {label}": theirs,
            "torch.compile swin_t, bfloat16, batch 4": {"error": "torch is missing"},
        },
    }
    expected = {"training": 1.5, "inference, batch 1": 1.5, "memory": 0.8}
    assert speed.ratios(parts) == {label: expected}


def test_time_is_shared_and_what_is_measured_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, float] = {}

    def measured(case: Case, seconds: float, environment: dict[str, str]) -> dict[str, str]:
        given[case.name] = seconds
        return {} if case.name != "slow" else {"error": "no end"}

    names = {"exact": ("done", "fast", "slow"), "faults": ("last",)}
    monkeypatch.setattr(command, "run", measured)
    monkeypatch.setattr(
        command, "cases_of", lambda part, args: [Case(name, "", {}) for name in names[part]]
    )
    monkeypatch.setattr(sys, "argv", ["gpu", "--parts", "exact,faults", "--minutes", "1"])
    args, results = command.parse(), Results(tmp_path / "gpu.json")
    results.put("exact", "done", {"float32": 1e-6})
    command.measure(args, results, Console(quiet=True))
    assert given.keys() == {"fast", "slow", "last"}
    share = command.SHARES["exact"] / (command.SHARES["exact"] + command.SHARES["faults"])
    assert given["fast"] == pytest.approx(60 * share, abs=2)
    assert given["last"] == pytest.approx(60, abs=2)  # nothing else took time
    assert not results.has("exact", "slow")


def test_cases_name_what_there_is() -> None:
    """Experiments and stored references; no two cases of a part have one name."""
    every = {
        "exact": list(exact.cases(quick=False)),
        "speed": list(speed.cases(False, 512)),
        "compile": list(speed.compile_cases(False, 512)),
        "resume": list(runs.resume_cases(False, 512)),
    }
    for cases in every.values():
        assert len({case.name for case in cases}) == len(cases)
    assert {case.arguments["network"] for case in every["exact"]} >= reference.STEPS.keys()
    for case in every["speed"] + every["resume"]:
        assert load_experiment(case.arguments["experiment"]).head
    both = {case.name for case in every["speed"]}
    peers = speed.peer_cases(False, 512, Path())
    labels = [
        case.name.removeprefix("torch.compile ") for case in peers if "eager" not in case.name
    ]
    assert all(f"train {label}" in both for label in labels)


def test_a_case_that_fails_or_hangs_is_an_error_of_one_line() -> None:
    failing = Case("", "speed:peer", {"script": "none"})
    error = run(failing, 100)["error"]
    assert "missing" in error and "\n" not in error
    started = time.monotonic()
    assert run(failing, 0.01) == {"error": "no end within 0 s"}
    assert time.monotonic() - started < 10


@pytest.mark.full
def test_a_quick_pass_on_a_cpu(tmp_path: Path) -> None:
    """Speed, kernels, a run from files, kill and resume; what only a GPU can do is said."""
    output = tmp_path / "gpu.json"
    parts = "exact,speed,kernels,train,resume,faults"
    flags = ["--quick", "--parts", parts, "--output", str(output), "--steps", "50"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *flags, "--data-dir", "none"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    errors = [f for part in found.values() for f in part.values() if "error" in f]
    assert errors == [{"error": "only a GPU's memory can be bounded"}]
    (logits,) = found["exact"].values()
    assert logits["float32 highest"] < 1e-4 < logits["bfloat16"] < 0.1
    (resumed,) = found["resume"].values()
    assert resumed["bit for bit"] == "yes" and resumed["largest difference"] == 0
    assert found["faults"]["terminated"]["exit code"] == 130
    assert "step" in found["faults"]["not a number"]["last line"]
    (trained,) = found["train"].values()
    assert trained["data"] == "drawn" and trained["main thread CPU ms/step"] > 0
    assert 0 <= trained["idle %"] < 100
