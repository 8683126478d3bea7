import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from jaxparse import plot as plot_module
from jaxparse.plot import main, plot, read_changes
from jaxparse.training.logs import COLOURS
from tests.logged import ALL, TRAIN, make_run
from tests.refusal import refuses


def colours_in(path: Path) -> list[str]:
    """Which of the runs' colours the picture shows."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    rgb = {colour: np.rint(255 * np.array(to_rgb(colour))) for colour in COLOURS[:3]}
    return [colour for colour in rgb if (pixels == rgb[colour]).all(-1).any()]


def test_the_file_shows_every_run(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, ALL) for name in "ab"]
    output = tmp_path / "new" / "curves.png"
    plot(runs, output)
    assert colours_in(output) == list(COLOURS[:2])
    assert os.listdir(output.parent) == ["curves.png"]


def test_changes_are_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "a", [])
    lengths = []
    looks = itertools.count()

    def sleep(seconds: float) -> None:
        assert seconds == 7
        if (look := next(looks)) == 1:
            make_run(folder, TRAIN[:2], '{"step"')
        elif look == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(plot_module.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        lengths.extend(len(runs[0].rows) for runs in read_changes([folder], 7))
    assert (lengths, next(looks)) == ([0, 2], 4)

    looks = itertools.count()
    output = tmp_path / "live.png"
    plot([folder], output, live=7)  # Ctrl-C is its proper end
    assert colours_in(output) == list(COLOURS[:1])


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".PNG"])
def test_suffix_is_the_format(suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"curves{suffix}"
    plot([make_run(tmp_path / "a", ALL)], output)
    start = {".pdf": b"%PDF", ".svg": b"<?xml", ".PNG": b"\x89PNG"}[suffix]
    assert output.read_bytes().startswith(start)


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(make_run(tmp_path / name, ALL)) for name in "ab"]
    output = str(tmp_path / "curves.png")
    monkeypatch.setattr(sys, "argv", ["plot", *runs, "--output", output, "--smooth", "0"])
    main()
    assert output in capsys.readouterr().out
    assert Path(output).is_file()


def test_bad_input_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    good, folder = make_run(tmp_path / "good", ALL), tmp_path / "folder.png"
    folder.mkdir()
    empty = make_run(tmp_path / "empty", [], '{"step": 1')
    beside = good / "metrics.jsonl" / "x.png"
    cases = [
        (([], Path("x.png")), ["0 runs"]),
        (([tmp_path / "no"], Path("x.png")), [tmp_path / "no", "metrics.jsonl"]),
        (([empty], Path("x.png")), [empty / "metrics.jsonl", "--live"]),
        (([good], Path("x.xyz")), ["--output x.xyz", ".png, .pdf, .svg"]),
        (([good], Path("x")), ["--output x", ".png, .pdf, .svg"]),
        (([good], folder), [f"--output {folder}"]),
        (([good], beside), [f"--output {beside}"]),
        (([good], Path("x.png"), -1.0), ["--smooth -1.0"]),
        (([good], Path("x.png"), None, 0.0), ["--live 0.0"]),
    ]
    for arguments, words in cases:
        with refuses(*words):
            plot(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder.png", "good"]
