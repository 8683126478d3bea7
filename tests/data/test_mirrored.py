from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse.config import SYNTHETIC, Config
from jaxparse.data.identity import data_identity
from jaxparse.data.loaders import EvalLoader, make_train_loader
from jaxparse.data.masks import write_mask
from jaxparse.data.mirrored import mirrored_line, mirrored_masks, read_names, write_names
from jaxparse.data.sources import make_source
from tests.pairs import make_pair
from tests.refusal import refuses

SIDES = np.array([[0, 1, 4, 5, 6, 7], [8, 9, 255, 10, 18, 13]], np.uint8)
EXCHANGED = np.array([[0, 1, 5, 4, 7, 6], [9, 8, 255, 10, 18, 13]], np.uint8)


def data(folder: Path, *names: str) -> Config:
    """Pictures 000 to 003 to train on, 100 and 101 to evaluate on; `names` are listed."""
    for split, indices in (("train", range(4)), ("val", (100, 101))):
        for index in indices:
            _, mask = make_pair(folder, split, index, SIDES.shape)
            write_mask(mask, SIDES)
    listed = folder / "list.txt"
    listed.write_text("\n".join(names) + "\n")
    return Config(
        data_dir=str(folder), mirrored_masks=str(listed), image_size=16, batch_size=2, num_workers=2
    )


def test_listed_masks_are_exchanged_wherever_masks_are_read(tmp_path: Path) -> None:
    config = data(tmp_path, "101", "", " 002 ")
    train, val = (make_source(config, split) for split in ("train", "val"))
    for source, names in ((train, {"002"}), (val, {"101"})):
        for index in range(len(source)):
            expected = EXCHANGED if source.name(index) in names else SIDES
            for label in (source[index]["label"], source.read(index)[1], source.label(index)):
                np.testing.assert_array_equal(label, expected)
    (batch,) = EvalLoader(config)
    np.testing.assert_array_equal(batch["label"][:, :2, :6], [SIDES, EXCHANGED])
    loader = make_train_loader(config)
    labels = [label for _ in range(2) for label in next(loader)["label"]]
    assert sorted(int(label[0, -1]) for label in labels) == [6, 7, 7, 7]
    assert mirrored_line(config).endswith(f"{config.mirrored_masks} lists: 1 of train and 1 of val")


def test_nothing_is_exchanged_without_a_list(tmp_path: Path) -> None:
    config = replace(data(tmp_path), mirrored_masks="none")
    np.testing.assert_array_equal(make_source(config, "train")[2]["label"], SIDES)
    assert mirrored_masks(config) == {"train": frozenset(), "val": frozenset()}


def test_names_that_no_mask_or_two_have_are_refused(tmp_path: Path) -> None:
    config = data(tmp_path, "002", "nobody", "other")
    for split in ("train", "val"):
        with refuses(config.mirrored_masks, "nobody", "1 more", "neither train nor val", tmp_path):
            make_source(config, split)
    config = data(tmp_path, "002")
    make_pair(tmp_path, "val", 2)
    with refuses(config.mirrored_masks, "002", "both"):
        make_source(config, "train")


def test_a_folder_with_one_split_can_be_evaluated(tmp_path: Path) -> None:
    config = data(tmp_path, "101")
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(make_source(config, "val").label(1), EXCHANGED)


def test_lists_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    config = data(tmp_path)
    with refuses(tmp_path / "absent.txt", "none"):
        make_source(replace(config, mirrored_masks=str(tmp_path / "absent.txt")), "train")
    (tmp_path / "list.txt").write_bytes("1\n".encode("utf-16"))
    with refuses(config.mirrored_masks, "text"):
        make_source(config, "train")
    with refuses("drawn faces", "--mirrored-masks"):
        make_source(replace(config, data_dir=SYNTHETIC), "train")


@pytest.mark.parametrize("names", [set(), {"b", "a ü"}])
def test_written_names_are_read(tmp_path: Path, names: set[str]) -> None:
    write_names(tmp_path / "new" / "list.txt", names)
    assert read_names(tmp_path / "new" / "list.txt") == names


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    names = {"caf\udce9", "müller", "0001"}
    write_names(tmp_path / "list.txt", names)
    assert read_names(tmp_path / "list.txt") == names


def test_a_data_folder_with_such_names_has_an_identity(tmp_path: Path) -> None:
    config = data(tmp_path)
    before = data_identity(replace(config, mirrored_masks="none"))
    for path in list(tmp_path.rglob("002.png")):
        path.rename(path.with_stem("caf\udce9"))
    after = data_identity(replace(config, mirrored_masks="none"))
    assert after.keys() == before.keys() and after != before
