import json
import sys

import pytest

from jaxparse import benchmark
from tests.test_train import CONFIG


def test_prints_one_json_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("image_size", "batch_size", "learning_rate", "drop_path_rate", "warmup_steps", "steps")
    flags = [f"--{name.replace('_', '-')}={getattr(CONFIG, name)}" for name in names]
    monkeypatch.setattr(sys, "argv", ["benchmark", "--exp", "quickstart", *flags])
    monkeypatch.setattr(benchmark, "REPEATS", 2)
    benchmark.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["network"] == "swin_nano + upernet"
    assert (figures["image_size"], figures["batch_size"], figures["repeats"]) == (64, 4, 2)
    timed = ("inference_compile_s", "inference_s", "train_compile_s", "train_step_s", "peak_rss_gb")
    assert all(figures[name] > 0 for name in timed)


def test_median_leaves_the_first_call_out() -> None:
    calls = []
    seconds = benchmark.median_seconds(lambda: calls.append(1), repeats=3)
    assert len(calls) == 4
    assert 0 <= seconds < 1
