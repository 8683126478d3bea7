import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import PALETTE
from jaxparse.data.images import read_label, write_image, write_mask
from jaxparse.scoring import folders as score_folders_module
from jaxparse.scoring.counts import count, total
from jaxparse.scoring.folders import score_folders


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Masks of many sizes, each some pixels off its label."""
    rng = np.random.default_rng(0)
    for index in range(9):
        label = rng.integers(0, 19, (3 + index, 5)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        write_mask(tmp_path / "predictions" / f"{index}.png", np.roll(label, 1, 1))
        label[:2] = 255
        write_mask(tmp_path / "labels" / f"{index}.png", label)
    return tmp_path / "predictions", tmp_path / "labels"


def read(folder: Path, index: int) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{index}.png"))


def test_counts_of_every_picture(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    done = []

    def track(items: Iterator, total: int) -> Iterator:
        for item in items:
            done.append(total)
            yield item

    found = score_folders(predictions, labels, track=track)
    assert list(found) == [str(index) for index in range(9)]
    assert done == 9 * [9]
    for index in range(9):
        wanted = count(read(labels, index), read(predictions, index))
        np.testing.assert_array_equal(found[str(index)].confusion, wanted.confusion)
        np.testing.assert_array_equal(found[str(index)].boundary, wanted.boundary)
    assert total(found.values()).confusion.sum() == sum(20 * (4 * (3 + i) - 2) for i in range(9))


def test_masks_of_other_tools(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    wanted = score_folders(predictions, labels)
    mask = read(predictions, 0)
    (predictions / "0.png").unlink()
    Image.fromarray(mask).save(predictions / "0.tif")  # greyscale
    write_image(predictions / "1.png", PALETTE[read(predictions, 1)])  # the palette's colours
    Image.open(predictions / "2.png").save(predictions / "2.bmp")  # a palette
    (predictions / "2.png").unlink()
    write_image(predictions / "3_overlay.png", np.zeros((4, 4, 3), np.uint8))  # passed over
    (predictions / "notes.txt").write_text("any")
    (predictions / ".hidden.png").write_text("any")
    found = score_folders(predictions, labels)
    assert found.keys() == wanted.keys()
    for name, counts in found.items():
        np.testing.assert_array_equal(counts.confusion, wanted[name].confusion)


def message(folders: tuple[Path, Path]) -> str:
    with pytest.raises(ValueError) as caught:
        score_folders(*folders)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_masks_without_partner_are_counted_with_examples(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for index in range(2, 7):
        (predictions / f"{index}.png").unlink()
    (labels / "8.png").rename(labels / "a.png")
    line = message(folders)
    examples = ", ".join(str(labels / f"{index}.png") for index in (2, 3, 4))
    assert f"6 of 9 masks have no prediction in {predictions} ({examples}, …)" in line
    assert f"1 of 4 masks have no label in {labels} ({predictions / '8.png'})" in line


def test_bad_masks_are_counted_by_kind_with_an_example_each(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for index in (1, 2):
        write_mask(predictions / f"{index}.png", np.zeros((10, 7), np.uint8))
    for index in (3, 4, 5):
        write_mask(predictions / f"{index}.png", np.full((8, 8), 40 + index, np.uint8))
    write_mask(predictions / "6.png", np.full(read(labels, 6).shape, 255, np.uint8))
    (labels / "7.png").write_bytes((labels / "7.png").read_bytes()[:-60])
    line = message(folders)
    assert line.startswith("7 of 9 pairs of masks are bad: 2 of unequal sizes (prediction ")
    assert f"{predictions / '1.png'} is 7x10 and its label {labels / '1.png'} is 20x16" in line
    assert f"{predictions / '3.png'} holds 43, outside 0..18" in line
    assert f"1 with unpredicted pixels (prediction {predictions / '6.png'} holds 255; " in line
    assert "4 unreadable or of other values (" in line


def test_folders_that_are_missing_or_empty_or_ambiguous(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    predictions, labels = folders
    absent = tmp_path / "absent"
    assert message((absent, labels)) == f"there is no folder {absent}; expected masks in it"
    absent.mkdir()
    assert message((predictions, absent)).startswith(f"{absent} is empty; expected .png")
    Image.fromarray(read(predictions, 0)).save(predictions / "0.tif")
    assert message(folders).startswith(f"{predictions / '0.tif'} has the name of 0.png; ")


def test_breaking_off_leaves_the_other_pairs(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    go_on = threading.Event()

    def slow(path: Path, order: str) -> np.ndarray:
        read.append(path)
        if len(read) > 2:  # after the first pair's two masks
            go_on.wait(10)
        return read_label(path, order)

    def stop(items: Iterator, total: int) -> Iterator:
        yield next(items)
        threading.Timer(0.2, go_on.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(score_folders_module, "read_label", slow)
    with pytest.raises(KeyboardInterrupt):
        score_folders(*folders, track=stop)
    assert len(read) <= 4
