from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data import folders
from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask
from jaxparse.data.sources import FolderSource
from tests.pairs import CHALLENGE, PLAIN, make_pair, make_split
from tests.refusal import refuses


@pytest.mark.parametrize("layout", [CHALLENGE, PLAIN])
def test_find_pairs_matches_names_in_both_layouts(tmp_path: Path, layout: tuple) -> None:
    made = [make_pair(tmp_path, "val", index, (20, 30), layout) for index in (2, 0, 1)]
    (made[0][0].parent / ".hidden.png").write_bytes(b"")
    (made[0][0].parent / "notes.txt").write_bytes(b"")
    made[0][0].rename(made[0][0].with_suffix(".PNG"))
    pairs = folders.find_pairs(tmp_path, "val")
    assert [pair.image.name for pair in pairs] == ["000.png", "001.png", "002.PNG"]
    assert [pair.label.name for pair in pairs] == ["000.png", "001.png", "002.png"]
    assert {pair.size for pair in pairs} == {(20, 30)}


def test_missing_folders_name_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "train" / "train_image").mkdir(parents=True)
    with refuses("train_image", "train_mask", "--data-dir"):
        folders.find_pairs(tmp_path, "train")


def test_empty_folder_is_named(tmp_path: Path) -> None:
    _, mask = make_pair(tmp_path, "train", 0)
    mask.unlink()
    with refuses(mask.parent, "no .png"):
        folders.find_pairs(tmp_path, "train")


def test_image_without_mask_and_the_number_of_others(tmp_path: Path) -> None:
    make_split(tmp_path, "train", 4)
    for index in (1, 2, 3):
        (tmp_path / "train" / "train_mask" / f"{index:03d}.png").unlink()
    image, mask = (tmp_path / "train" / f"train_{kind}" / "001.png" for kind in ("image", "mask"))
    with refuses(f"image {image}", mask, "2 more", f"python -m jaxparse.data --check {tmp_path}"):
        folders.find_pairs(tmp_path, "train")


def test_mask_without_image(tmp_path: Path) -> None:
    make_split(tmp_path, "train", 2)
    (tmp_path / "train" / "train_image" / "001.png").unlink()
    with refuses("mask ", "001.png", "001.jpg") as caught:
        folders.find_pairs(tmp_path, "train")
    assert "--check" not in str(caught.value)  # it is the only fault


def test_two_images_of_one_name(tmp_path: Path) -> None:
    image, _ = make_pair(tmp_path, "train", 0)
    write_image(image.with_suffix(".jpg"), np.zeros((16, 16, 3), np.uint8))
    with refuses(image, "000.jpg", "rename"):
        folders.find_pairs(tmp_path, "train")


def test_different_sizes(tmp_path: Path) -> None:
    image, mask = make_pair(tmp_path, "train", 0, (20, 30))
    write_mask(mask, np.zeros((30, 20), np.uint8))
    with refuses(f"{mask} is 20x30", f"{image} is 30x20", "resize"):
        folders.find_pairs(tmp_path, "train")


def test_sizes_are_compared_upright(tmp_path: Path) -> None:
    image, mask = make_pair(tmp_path, "train", 0, (20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(image, exif=exif)
    write_mask(mask, np.zeros((20, 30), np.uint8))
    pairs = folders.find_pairs(tmp_path, "train")
    assert pairs[0].size == (20, 30)
    assert FolderSource(pairs, 16, False)[0]["label"].shape == (20, 30)


def test_unreadable_header_is_found_before_the_first_step(tmp_path: Path) -> None:
    image, _ = make_pair(tmp_path, "train", 0)
    image.write_bytes(b"no picture")
    with refuses(image, "not a picture"):
        folders.find_pairs(tmp_path, "train")


def test_find_images_lists_files_and_folders(tmp_path: Path) -> None:
    names = ["b.jpg", "a.PNG", "c.tiff", "d.webp", "e.bmp", "f.txt", ".g.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = folders.find_images([tmp_path / "f.txt", tmp_path])
    assert [path.name for path in found] == ["f.txt", "a.PNG", "b.jpg", "c.tiff", "d.webp", "e.bmp"]
    with refuses("there is no", tmp_path / "none"):
        folders.find_images([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with refuses(tmp_path / "empty", "no .jpg"):
        folders.find_images([tmp_path / "empty"])


def test_what_is_not_taken_for_a_picture_is_listed(tmp_path: Path) -> None:
    for name in ("b.jfif", "a.gif", "c.psd", "d.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "e.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "sub").mkdir()
    assert [path.name for path in folders.find_images([tmp_path])] == ["a.gif", "b.jfif"]
    others = folders.other_files([tmp_path, tmp_path / "a.gif"])
    assert [path.name for path in others] == ["c.psd", "d.txt", "e.jpg", "sub"]


def test_find_tree_keeps_the_folders_of_pictures(tmp_path: Path) -> None:
    for name in ("in/b.png", "in/c/a.jpg", "in/c/d/b.png", "in/.hidden/x.png", "in/out/b.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    top = tmp_path / "in"
    (top / "c" / "loop").symlink_to(top)
    found = folders.find_tree([top, top / "b.png"], without=top / "c" / ".." / "out")
    assert {str(k.relative_to(top)): str(v) for k, v in found.items()} == {
        "b.png": ".",
        "c/a.jpg": "c",
        "c/d/b.png": "c/d",
    }
    assert list(found) == sorted(found)
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with refuses(tmp_path / "empty", "sub-folders"):
        folders.find_tree([tmp_path / "empty"])
