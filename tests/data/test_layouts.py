import shutil
import subprocess
from pathlib import Path

import pytest

from jaxparse.data.folders import find_pairs, match_masks, match_names, other_files_line
from tests.pairs import make_split
from tests.refusal import refuses

OURS = {split: (f"{split}/{split}_image", f"{split}/{split}_mask") for split in ("train", "val")}


def arrange(folder: Path, images: str, masks: str) -> Path:
    """Pairs of both splits, in folders named after the patterns; {split} is train or val."""
    data = folder / "data set"
    for split, paths in OURS.items():
        make_split(folder / "made", split, 2)
        for path, pattern in zip(paths, (images, masks), strict=True):
            target = data / pattern.format(split=split)
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / "made" / path).rename(target)
    return data


def fix_of(data: Path, split: str) -> str:
    """What the error says to do."""
    with refuses(data, "holds") as caught:
        match_names(data, split)
    return str(caught.value).split(": ", 1)[1]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{split}", "masks/{split}"),
        ("img_dir/{split}", "ann_dir/{split}"),
        ("{split}/imgs", "{split}/labels"),
        ("{split}/Images", "{split}/Annotations"),
    ],
)
def test_the_command_for_a_known_layout_mends_it(tmp_path: Path, images: str, masks: str) -> None:
    data = arrange(tmp_path, images, masks)
    for split in OURS:
        command = fix_of(data, split).removeprefix("run: ")
        subprocess.run(["bash", "-c", command], check=True)
        assert [pair.image.name for pair in find_pairs(data, split)] == ["000.png", "001.png"]


@pytest.mark.parametrize(("ours", "theirs"), [("train", "Train"), ("val", "validation")])
def test_the_command_for_a_split_of_another_name(tmp_path: Path, ours: str, theirs: str) -> None:
    data = arrange(tmp_path, "{split}/{split}_image", "{split}/{split}_mask")
    (data / ours).rename(data / theirs)
    command = fix_of(data, ours)
    assert command == f"run: mv '{data}/{theirs}' '{data}/{ours}'"
    subprocess.run(["bash", "-c", command.removeprefix("run: ")], check=True)
    assert len(find_pairs(data, ours)) == 2


def test_a_level_too_high_or_too_low_says_which_folder_to_give(tmp_path: Path) -> None:
    data = arrange(tmp_path, "deep/{split}/images", "deep/{split}/masks")
    assert fix_of(data, "train") == f"give --data-dir '{data}/deep'"
    assert fix_of(data / "deep" / "train", "train") == f"give --data-dir '{data}/deep'"


def test_unknown_layouts_say_what_is_there(tmp_path: Path) -> None:
    with refuses("there is no folder", tmp_path / "gone", "--data-dir"):
        match_names(tmp_path / "gone", "train")
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    with refuses("train_image", f"{tmp_path}/data holds a/, b/", "--data-dir"):
        match_names(tmp_path / "data", "train")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}", "{}_mask"),
        ("{}", "mask-{}"),
        ("my {}", "my {}_gt"),
        ("0000{}", "{}"),
        ("{}", "000{}"),
    ],
)
def test_the_command_for_names_that_follow_a_pattern(tmp_path: Path, image: str, mask: str) -> None:
    data = arrange(tmp_path, "{split}/images", "{split}/masks")
    for folder, name in (("images", image), ("masks", mask)):
        for number in range(2):
            old = data / "train" / folder / f"{number:03d}.png"
            old.rename(old.with_stem(name.format(number + 8)))  # 08 would be octal in a shell
    pairs, (line,) = match_names(data, "train")
    assert pairs == [] and line.startswith("2 masks have other names")
    subprocess.run(["bash", "-c", line.split("run: ")[1]], check=True)
    stems = [image.format(number) for number in (8, 9)]
    assert [pair.label.stem for pair in find_pairs(data, "train")] == stems
    shutil.copytree(data / "train" / "masks", tmp_path / "predictions")
    assert len(match_masks(tmp_path / "predictions", data / "train" / "masks")) == 2


def test_names_without_a_pattern_are_listed(tmp_path: Path) -> None:
    make_split(tmp_path, "train", 2)
    for path in (tmp_path / "train" / "train_mask").iterdir():
        path.rename(path.with_stem(f"x{path.stem}y{path.stem}"))
    assert len(match_names(tmp_path, "train")[1]) == 4


def test_what_is_not_taken_is_counted_and_named(tmp_path: Path) -> None:
    make_split(tmp_path, "train", 2)
    assert other_files_line(tmp_path, "train") is None
    folder = tmp_path / "train" / "train_mask"
    for name in ("a.npy", "b.jpg"):
        (folder / name).write_bytes(b"")
    (folder / "c.png").symlink_to("nowhere.png")
    assert other_files_line(tmp_path, "train").endswith("of train: 3 (a.npy, b.jpg, c.png)")
    for path in folder.glob("0*"):
        path.unlink()
    with refuses(folder, "holds 3 others (a.npy, b.jpg, c.png)", "lost classes"):
        match_names(tmp_path, "train")
