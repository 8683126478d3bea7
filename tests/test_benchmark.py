import json
import sys

import pytest

from jaxparse import benchmark
from tests import mini


def test_prints_one_json_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--exp", str(mini.__file__), "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags])
    benchmark.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["network"] == "mini + upernet"
    assert (figures["image_size"], figures["batch_size"], figures["repeats"]) == (64, 4, 2)
    timed = ("inference_compile_s", "inference_s", "train_compile_s", "train_step_s", "peak_rss_gb")
    assert all(figures[name] > 0 for name in timed)


def test_median_leaves_the_first_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    times = iter([0, 5, 10, 11, 20, 29])  # three calls of 5, 1 and 9 seconds
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(times))
    assert benchmark.median_seconds(lambda: calls.append(1), repeats=3) == 5
    assert len(calls) == 4
