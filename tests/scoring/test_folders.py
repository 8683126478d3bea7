import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import CELEBAMASK
from jaxparse.data.images import write_image
from jaxparse.data.masks import read_label, write_mask
from jaxparse.scoring import folders as score_folders_module
from jaxparse.scoring.counts import count, total
from jaxparse.scoring.folders import score_folders
from tests.refusal import refuses


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
        wanted = count(read(labels, index), read(predictions, index), 19)
        np.testing.assert_array_equal(found[str(index)].confusion, wanted.confusion)
        np.testing.assert_array_equal(found[str(index)].boundary, wanted.boundary)
    assert total(found.values()).confusion.sum() == sum(20 * (4 * (3 + i) - 2) for i in range(9))


def test_masks_of_other_tools(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    expected = score_folders(predictions, labels)
    mask = read(predictions, 0)
    (predictions / "0.png").unlink()
    Image.fromarray(mask).save(predictions / "0.tif")  # greyscale
    write_image(
        predictions / "1.png", CELEBAMASK.palette[read(predictions, 1)]
    )  # the palette's colours
    Image.open(predictions / "2.png").save(predictions / "2.bmp")  # a palette
    (predictions / "2.png").unlink()
    for stem in "13":  # skipped, beside masks in colours too
        write_image(predictions / f"{stem}_overlay.png", np.zeros((4, 4, 3), np.uint8))
    (predictions / "notes.txt").write_text("any")
    (predictions / ".hidden.png").write_text("any")
    found = score_folders(predictions, labels)
    assert found.keys() == expected.keys()
    for name, counts in found.items():
        np.testing.assert_array_equal(counts.confusion, expected[name].confusion)


def test_regions_beside_masks_are_skipped(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    expected = score_folders(predictions, labels)
    Image.new("L", (4, 4)).save(predictions / "3_hair.png")
    Image.new("RGBA", (4, 4)).save(predictions / "3_hair_cutout.png")
    assert score_folders(predictions, labels).keys() == expected.keys()
    Image.fromarray(read(predictions, 5)).save(predictions / "5.png")
    Image.new("L", (4, 4)).save(predictions / "5_a.png")  # as grey as 5.png: a mask
    (predictions / "4.png").rename(predictions / "3_4.png")  # a mask: it has a palette
    refusal(folders, "2 of 10", predictions / "3_4.png", predictions / "5_a.png", labels / "4.png")


def refusal(folders: tuple[Path, Path], *words: object) -> str:
    with refuses(*words) as caught:
        score_folders(*folders)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_masks_without_partner_are_counted_with_examples(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for index in range(2, 7):
        (predictions / f"{index}.png").unlink()
    (labels / "8.png").rename(labels / "a.png")
    examples = ", ".join(str(labels / f"{index}.png") for index in (2, 3, 4))
    refusal(folders, "6 of 9", f"{predictions} ({examples}, …)")
    refusal(folders, "1 of 4", f"{labels} ({predictions / '8.png'})")


def test_bad_masks_are_counted_by_kind_with_an_example_each(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for index in (1, 2):
        write_mask(predictions / f"{index}.png", np.zeros((10, 7), np.uint8))
    for index in (3, 4, 5):
        write_mask(predictions / f"{index}.png", np.full((8, 8), 40 + index, np.uint8))
    write_mask(predictions / "6.png", np.full(read(labels, 6).shape, 255, np.uint8))
    (labels / "7.png").write_bytes((labels / "7.png").read_bytes()[:-60])
    line = refusal(folders, "7 of 9")
    _, sizes, values, unpredicted = re.split(r"(?:: |; )(?=\d \w+ )", line)
    assert sizes.startswith("2 ") and values.startswith("4 ") and unpredicted.startswith("1 ")
    for word in (predictions / "1.png", "7x10", labels / "1.png", "20x16"):
        assert str(word) in sizes
    for word in (predictions / "3.png", "43", "celebamask"):
        assert str(word) in values
    for word in (predictions / "6.png", "255", "celebamask"):
        assert str(word) in unpredicted


def test_folders_that_are_missing_or_empty_or_ambiguous(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    predictions, labels = folders
    absent = tmp_path / "absent"
    refusal((absent, labels), "no folder", absent)
    absent.mkdir()
    refusal((predictions, absent), absent, ".png")
    Image.fromarray(read(predictions, 0)).save(predictions / "0.tif")
    refusal(folders, predictions / "0.tif", " 0.png")


def test_breaking_off_leaves_the_other_pairs(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels_read = []

    def noted(path: Path, *order: str) -> np.ndarray:
        labels_read.append(path)
        return read_label(path, *order)

    def stop(items: Iterator, total: int) -> Iterator:
        yield next(items)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(score_folders_module, "read_label", noted)
    with pytest.raises(KeyboardInterrupt):
        score_folders(*folders, track=stop)
    assert len(labels_read) <= 6  # of 18: a thread reads at most two pairs ahead of the first
