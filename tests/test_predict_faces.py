import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxparse import cli, predict
from jaxparse.classes import load_classes
from jaxparse.data.images import read_header
from jaxparse.data.masks import read_label, write_mask
from jaxparse.parsing import parser
from jaxparse.parsing.parser import Parser
from tests.clips import read_clip, require_av, write_clip
from tests.conftest import Nano
from tests.parsed import draw, face, share_program
from tests.parsing.test_photographs import detect


@pytest.fixture
def command(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line with a detector that knows the faces."""
    share_program(monkeypatch, nano)
    monkeypatch.setattr(parser, "load_detector", lambda: detect)

    def run(*flags: object) -> int:
        flags = ("--weights", nano.weights, *flags)
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, flags)])
        with pytest.raises(SystemExit) as caught:
            cli.run(predict.main)
        return caught.value.code

    return run


def test_files_of_photographs(
    command: Callable[..., int],
    nano: Nano,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    widths = {"two": 200, "one": 210, "none": 220}
    paths = [
        draw(tmp_path / "in" / f"{name}.png", index, (150, width))
        for index, (name, width) in enumerate(widths.items())
    ]
    output = tmp_path / "out"
    for left in ("two_faces/2.png", "one_faces/7.jpg"):  # by a run that found more
        write_mask(output / left, np.zeros((4, 4), np.uint8))
    flags = ("--each-face", "--overlay", "--flip", "--classes", "facer")
    assert command("--input", tmp_path / "in", "--output", output, *flags) == 0
    said = capsys.readouterr()
    assert f"2 masks in {output}, no face found in 1 of 3\n" in said.out
    [line] = [line for line in said.err.splitlines() if "no face" in line]
    assert str(paths[2]) in line
    written = {str(path.relative_to(output)) for path in output.rglob("*.*")}
    masks = {f"{name}{ending}" for name in ("two", "one") for ending in (".png", "_overlay.png")}
    faces = {
        f"{face}.{kind}"
        for face in ("two_faces/0", "two_faces/1", "one_faces/0")
        for kind in ("png", "jpg")
    }
    assert written == masks | faces | {f"{name}.json" for name in widths}
    classes = load_classes("facer")
    parsing = Parser.load(nano.weights, parser.TestTime(flip=True), classes=classes, faces=True)
    results = parsing(paths)
    for path, result in zip(paths, results, strict=True):
        described = json.loads((output / f"{path.stem}.json").read_text())
        assert described == result.describe()
    np.testing.assert_array_equal(read_label(output / "two.png", classes), results[0].mask)
    for index, result in enumerate(results[0].each_face()):
        mask = read_label(output / "two_faces" / f"{index}.png", classes)
        np.testing.assert_array_equal(mask, result.mask)
        assert read_header(output / "two_faces" / f"{index}.jpg").size == (64, 64)


def test_no_face_at_all_is_a_failure(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = draw(tmp_path / "none.png", 0, (150, 220))
    assert command("--input", path, "--output", tmp_path / "out", "--faces") == 1
    said = capsys.readouterr()
    assert str(path) in said.err and "0 masks" in said.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["none.json"]


@pytest.mark.parametrize("flags", [("--logits",), ("--submission", "x.zip")])
def test_what_is_of_whole_pictures_is_refused(
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
) -> None:
    assert command("--input", tmp_path, "--output", tmp_path / "out", "--faces", *flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and flags[0] in error and "--faces" in error


def blinking(index: int, size: tuple[int, int]) -> np.ndarray:
    """A face in every other frame."""
    return face(index, size) if index % 2 else np.zeros((*size, 3), np.uint8)


def test_frames_without_a_face_are_counted(
    command: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    require_av()
    monkeypatch.setattr(
        parser, "load_detector", lambda: lambda x: detect(x) if x.max() > 99 else []
    )
    times = (0, 512, 1024, 2000, 2512)
    clip = write_clip(tmp_path / "clip.mp4", (150, 200), times, picture=blinking)
    black = write_clip(tmp_path / "black.mp4", (150, 200), times[:1], picture=blinking)
    output = tmp_path / "out"
    assert command("--input", clip, black, "--output", output, "--faces") == 0
    said = capsys.readouterr()
    assert f"{clip}: 5 frames" in said.out and "no face found in 3\n" in said.out
    assert f"1 mask in {output}, no face found in 1 of 2" in said.out
    assert any(str(black) in line and "no face" in line for line in said.err.splitlines())
    assert {path.name for path in output.iterdir()} == {"clip.mov", "clip.json"}
    frames = json.loads((output / "clip.json").read_text())["frames"]
    assert [round(frame["time"] * 12800) for frame in frames] == list(times)
    assert [len(frame["faces"]) for frame in frames] == [0, 2, 0, 2, 0]
    masks, _ = read_clip(output / "clip.mov", "pal8")
    for mask, frame in zip(masks, frames, strict=True):
        assert (mask.max() > 0) == bool(frame["faces"])
    assert command("--input", black, "--output", output, "--faces") == 1
    capsys.readouterr()
    assert command("--input", clip, "--output", output, "--each-face") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in ("--each-face", str(clip), "--frames"))
    assert command("--input", clip, "--output", output, "--each-face", "--frames") == 0
    assert (output / "clip" / "000001_faces" / "1.jpg").is_file()
