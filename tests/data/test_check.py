import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import CELEBAMASK
from jaxparse.data.__main__ import check_split, main
from jaxparse.data.masks import write_mask
from jaxparse.data.suspicions import data_warnings
from tests.pairs import make_pair, make_split


def test_check_lists_every_bad_file_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_split(tmp_path, "train", 6)
    make_split(tmp_path, "val", 2)
    images, masks = tmp_path / "train" / "train_image", tmp_path / "train" / "train_mask"
    (masks / "000.png").unlink()
    write_mask(masks / "001.png", np.full((16, 16), 37, np.uint8))
    write_mask(masks / "002.png", np.zeros((8, 8), np.uint8))
    whole = (images / "003.png").read_bytes()
    (images / "003.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (16, 16)).save(masks / "004.png")
    monkeypatch.setattr(sys, "argv", ["data", "--check", str(tmp_path)])
    assert main() == 1
    output = capsys.readouterr().out
    *lines, last = output.splitlines()
    for words in (
        (images / "000.png", "no mask"),
        (masks / "001.png", "37"),
        (masks / "002.png", "8x8"),
        (images / "003.png", "cannot read"),
        (masks / "004.png", "mode 1"),
    ):
        assert any(all(str(word) in line for word in words) for line in lines), words
    assert "5 bad" in last


def test_check_counts_good_pairs(tmp_path: Path) -> None:
    make_split(tmp_path, "val", 3)
    make_pair(tmp_path, "val", 3, (8, 24))
    report = check_split(tmp_path, "val", CELEBAMASK)
    assert report.faults == []
    assert report.sizes == {"16x16": 3, "24x8": 1}
    assert report.image_modes == {"RGB": 4} and report.mask_modes == {"P": 4}
    assert report.pixels[:4].tolist() == [256, 256, 256, 192] and report.pixels.sum() == 960
    assert report.pictures[:5].tolist() == [1, 1, 1, 1, 0]


def test_check_of_good_folders_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_split(tmp_path, "train", 2)
    make_split(tmp_path, "val", 2)
    monkeypatch.setattr(sys, "argv", ["data", "--check", str(tmp_path)])
    assert main() == 0
    assert "all files are good" in capsys.readouterr().out


@pytest.mark.parametrize("kind, words", [("binary", "only 0 and 255"), ("mixed", "nearest")])
def test_masks_that_can_hardly_be_meant_are_said(tmp_path: Path, kind: str, words: str) -> None:
    for index in range(5):
        mask = make_pair(tmp_path, "train", index)[1]
        label = np.zeros((16, 16), np.uint8)
        label[:4] = 255 if kind == "binary" else np.arange(64).reshape(4, 16) % 19
        write_mask(mask, label)
    report = check_split(tmp_path, "train", CELEBAMASK)
    (line,) = report.warnings
    assert report.faults == [] and words in line and "train" in line
    make_split(tmp_path, "val", 6)
    assert check_split(tmp_path, "val", CELEBAMASK).warnings == []
    assert data_warnings(str(tmp_path), CELEBAMASK) == [line]  # what training says
