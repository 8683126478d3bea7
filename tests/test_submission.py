import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxparse import cli, submission
from jaxparse.data.masks import write_mask
from tests.zips import good, write_images, write_masks, write_zip

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["submission", *map(str, argv)])
        with pytest.raises(SystemExit) as caught:
            cli.run(submission.main)
        return (caught.value.code, *capsys.readouterr())

    return run


def test_command_line_packs_and_checks(tmp_path: Path, command: Command) -> None:
    images, masks = write_images(tmp_path / "test"), write_masks(tmp_path / "masks")
    path = tmp_path / "test_mask.zip"
    done = (0, f"{path}: 3 masks, no faults\n", "")
    flags = ("--images", images, "--format", "codabench")
    assert command("pack", masks, *flags, "--output", path) == done
    assert command("check", path, *flags) == done
    code, output, _ = command("check", path, "--images", tmp_path / "absent")
    assert code == 1 and output == ""
    path.write_bytes(b"")
    assert command("check", path, "--images", images)[0] == 1
    for mask in masks.iterdir():
        write_mask(mask, np.zeros((8, 8), np.uint8))
    code, output, errors = command("pack", masks, *flags, "--output", path)
    assert (code, output) == (1, "")
    first, second, *_ = errors.splitlines()
    assert first.startswith("error: ") and str(path) in first
    assert second.startswith("masks/0007.png: ") and "8x8" in second and "512x512" in second
    assert path.read_bytes() == b""


def test_check_shows_the_first_twenty_faults(tmp_path: Path, command: Command) -> None:
    members = good() + [(zipfile.ZipInfo(f"test_mask/x{i:02}.png"), b"") for i in range(22)]
    path = write_zip(tmp_path / "a.zip", members)
    code, output, _ = command("check", path, "--images", write_images(tmp_path / "test"))
    *lines, more = output.splitlines()
    assert code == 1 and len(lines) == 20 and "2 more" in more
    assert lines[0].startswith("test_mask/x00.png: ") and lines[19].startswith("test_mask/x19.png")
