"""The sheet of training pictures: what is on it, and what is refused."""

import itertools
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxparse import cli, preview
from jaxparse.classes import CELEBAMASK
from jaxparse.config import Config
from jaxparse.data.loaders import make_train_loader
from jaxparse.parsing.overlay import blend
from jaxparse.preview import PreviewOptions, pictures_from, sheet
from jaxparse.training.augment import augment, picture_keys
from tests import mini
from tests.pairs import make_split
from tests.refusal import refuses


def taken(config: Config, step: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(itertools.islice(pictures_from(config, step), count))


def test_pictures_are_those_of_the_steps() -> None:
    config = replace(mini.config, seed=3)
    loader = make_train_loader(config)
    batches, compiled = [next(loader) for _ in range(4)], jax.jit(partial(augment, config=config))
    for number, (image, label) in enumerate(taken(config, 2, 6)):
        step, place = 2 + number // 4, number % 4
        keys = picture_keys(3, step, 4)
        expected = compiled(batches[step] | {"key": keys})
        np.testing.assert_allclose(image, expected["image"][place], atol=0.51)
        np.testing.assert_array_equal(label, expected["label"][place])


def test_without_augmentation_pictures_are_as_they_are_read(tmp_path: Path) -> None:
    config = make_split(tmp_path, "train", 6)
    batch = next(make_train_loader(config))
    for (image, label), *expected in zip(taken(config, 0, 4), *batch.values(), strict=True):
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(label, expected[1])


def test_a_sheet_has_four_pictures_to_a_row_with_masks_and_a_legend() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        (rng.integers(0, 200, (8, 8, 3), np.uint8), np.full((8, 8), index, np.uint8))
        for index in range(5)
    ]
    drawn = sheet(pictures, 8, CELEBAMASK)
    assert drawn.shape[0] == 5 * 18 and drawn.shape[1] > 64  # the legend's five lines
    for index, (image, label) in enumerate(pictures):
        top, left = 8 * (index // 4), 16 * (index % 4)
        np.testing.assert_array_equal(drawn[top : top + 8, left : left + 8], image)
        right = drawn[top : top + 8, left + 8 : left + 16]
        np.testing.assert_array_equal(right, blend(image, label, CELEBAMASK))
    assert (drawn[8:16, 16:64] == 255).all()
    assert sheet(pictures[:2], 8, CELEBAMASK).shape[1] < drawn.shape[1] - 16


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp"])
def test_command_line(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = make_split(tmp_path / "data", "train", 6).data_dir, tmp_path / f"new/s{suffix}"
    flags = ("--exp", mini.__file__, "--data-dir", data, "--output", output, "--count", "3")
    flags += ("--image-size", "16", "--mirror-probability", "0")
    flags += ("--rotation-probability", "0", "--brightness", "0", "--step", "5")
    monkeypatch.setattr(sys, "argv", ["preview", *map(str, flags)])
    preview.main()
    printed = capsys.readouterr().out
    assert f"{output}: 3 pictures from step 5" in printed
    assert "--mirror-probability" in printed  # none is on
    with Image.open(output) as picture:
        assert picture.format == {".png": "PNG", ".JPG": "JPEG", ".webp": "WEBP"}[suffix]
        assert picture.width > 3 * 2 * 16
    assert os.listdir(output.parent) == [output.name]


def test_bad_input_is_refused_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_split(tmp_path / "data", "train", 4)
    file = tmp_path / "data" / "file"
    file.write_text("")
    good = tmp_path / "sheet.png"
    cases = [
        (PreviewOptions(Path("sheet.xyz")), ["--output sheet.xyz", ".png"]),
        (PreviewOptions(Path("sheet")), ["--output sheet", ".png"]),
        (PreviewOptions(Path("sheet.fits")), ["--output sheet.fits", ".png"]),  # Pillow only reads
        (PreviewOptions(good, count=0), ["--count 0"]),
        (PreviewOptions(good, step=-1), ["--step -1", "0..159999"]),
        (PreviewOptions(good, step=config.steps), ["--step 160000"]),
        (PreviewOptions(file / "sheet.png"), [f"--output {file / 'sheet.png'}"]),
    ]
    for options, words in cases:
        with refuses(*words):
            preview.preview(config, options)
    command = ["preview", "--exp", mini.__file__, "--data-dir", str(tmp_path / "no")]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(good)])
    with pytest.raises(SystemExit) as stopped:
        cli.run(preview.main)
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and error.count("\n") == 1 and str(tmp_path / "no") in error
    assert os.listdir(tmp_path) == ["data"]
