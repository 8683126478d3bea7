"""Drawn faces on disk, in the layout of the challenge."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import synthetic
from jaxparse.classes import CELEBAMASK
from jaxparse.cli import run
from jaxparse.data.drawn.picture import draw_face
from jaxparse.synthetic import write_faces


def test_the_command_writes_the_challenge_layout(tmp_path: Path) -> None:
    write_faces(tmp_path, count=2, val_count=1, size=64, seed=7)
    for split, indices in {"train": (0, 1), "val": (synthetic.VAL_START,)}.items():
        images = sorted((tmp_path / split / f"{split}_image").iterdir())
        masks = sorted((tmp_path / split / f"{split}_mask").iterdir())
        assert [path.name for path in images] == [f"{index:07d}.jpg" for index in indices]
        assert [path.name for path in masks] == [f"{index:07d}.png" for index in indices]
        for index, image_path, mask_path in zip(indices, images, masks, strict=True):
            image, label = draw_face(7, index, 64)
            with Image.open(mask_path) as mask:
                assert mask.mode == "P"
                palette = np.array(mask.getpalette()).reshape(-1, 3)[: len(CELEBAMASK)]
                np.testing.assert_array_equal(palette, CELEBAMASK.palette)
                np.testing.assert_array_equal(np.asarray(mask), label)
            with Image.open(image_path) as picture:
                assert np.abs(np.asarray(picture, float) - image).mean() < 8


def test_bad_arguments_end_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jaxparse.synthetic", "--output", str(tmp_path), "--count"]
    result = subprocess.run([*command, "0"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "--count" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    command = ["synthetic", "--output", str(tmp_path / "file"), "--count", "1", "--size", "64"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        run(synthetic.main)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and str(tmp_path / "file") in error
