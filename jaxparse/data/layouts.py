"""Data folders of other shapes than ours: what is there, and the commands that mend it.

Only used to word an error: nothing is read from a folder that `folders` does not know.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

# Names of folders in data sets of other tools, in lower case.
IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "pictures", "photos", "input")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "gt", "seg")
MASKS += ("segmentation", "segmentations", "target", "targets", "segmentationclass")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev")}
# What file names add to tell a mask from its picture: x_mask, mask-x, x_gt, …
ADDED = "mask|label|seg|segmentation|parsing|gt|ann|annotation|image|img|picture"


def listed(paths: Iterable[Path], most: int = 5) -> str:
    """The first names, as `a, b, …`; folders end in /."""
    shown = sorted(f"{path.name}/" if path.is_dir() else path.name for path in paths)
    return ", ".join(shown[:most] + ["…"] * (len(shown) > most))


def children(folder: Path) -> list[Path]:
    """What the folder holds, sorted, hidden files aside."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _child(folder: Path, known: Sequence[str]) -> Path | None:
    """The folder's sub-folder that has one of the names, in any case."""
    if not folder.is_dir():
        return None
    found = {path.name.lower(): path for path in children(folder) if path.is_dir()}
    return next((found[name] for name in known if name in found), None)


def _kinds(folder: Path | None, split: str) -> tuple[Path, Path] | None:
    """The folders of pictures and masks in the folder of a split."""
    if folder is None or not folder.is_dir():
        return None
    images = _child(folder, (f"{split}_image", f"{split}_images", f"{split}_img", *IMAGES))
    masks = _child(folder, (f"{split}_mask", f"{split}_masks", f"{split}_label", *MASKS))
    return (images, masks) if images and masks else None


def _by_kind(data_dir: Path, split: str) -> tuple[Path, Path] | None:
    """`images/train` and `masks/train`, or `img_dir/train` and `ann_dir/train`."""
    kinds = _kinds(data_dir, split)
    if kinds is None:
        return None
    images, masks = (_child(kind, SPLITS[split]) for kind in kinds)
    return (images, masks) if images and masks else None


def mend_layout(data_dir: Path, split: str) -> str | None:
    """What to do so that `data_dir` has the pictures and masks of `split`; None if unknown."""
    if data_dir.name.lower() in SPLITS[split] and _kinds(data_dir, split):
        return f"give --data-dir {shlex.quote(str(data_dir.parent))}"
    here = _child(data_dir, SPLITS[split])
    found = _by_kind(data_dir, split) or _kinds(here, split)
    if found:
        return f"run: {_move(found, data_dir / split, here)}"
    for child in children(data_dir):
        if _by_kind(child, split) or _kinds(_child(child, SPLITS[split]), split):
            return f"give --data-dir {shlex.quote(str(child))}"
    return None


def _move(found: tuple[Path, Path], base: Path, here: Path | None) -> str:
    """Shell commands that move the two folders to base/images and base/masks."""
    commands = [["mkdir", "-p", base]]
    if here is not None and here.name != base.name:
        commands = [["mv", here, base]]
        found = tuple(base / path.name if path.parent == here else path for path in found)
    kept = tuple(path.name for path in found) == (f"{base.name}_image", f"{base.name}_mask")
    for path, name in zip(found, ("images", "masks"), strict=True):
        if path != base / name and not (kept and path.parent == base):
            commands.append(["mv", path, base / name])
    return " && ".join(shlex.join(map(str, words)) for words in commands)


def _core(stem: str) -> str:
    """The name without what is added to it, and without a number's leading zeros."""
    core = re.sub(rf"^({ADDED})s?[ _.-]+|[ _.-]+({ADDED})s?$", "", stem, flags=re.IGNORECASE)
    return str(int(core)) if core.isascii() and core.isdigit() else core


def mend_names(images: Sequence[Path], masks: Sequence[Path]) -> str | None:
    """A line on files without partner whose names differ by a pattern, with the command that
    renames the masks; None if fewer than half do.

    x_mask.png belongs to x.jpg, 1.png to 00001.jpg.
    """
    cores = {_core(path.stem): path for path in images}
    pairs = [(cores[_core(mask.stem)], mask) for mask in masks if _core(mask.stem) in cores]
    if not pairs or 2 * len(pairs) < max(len(images), len(masks)):
        return None
    command = _rename(pairs)
    image, mask = pairs[0]
    line = f"{len(pairs)} masks have other names than what they belong to: {mask} and {image}"
    fix = f"run: {command}" if command else "rename them"
    return f"{line}; expected the name {image.stem}{mask.suffix}: {fix}"


def _rename(pairs: Sequence[tuple[Path, Path]]) -> str | None:
    """A shell loop that renames all masks of the pairs, None if they follow no single rule."""
    (image, mask), suffix = pairs[0], pairs[0][1].suffix
    folder = shlex.quote(str(mask.parent))
    if all(image.stem.isdigit() and mask.stem.isdigit() for image, mask in pairs):
        widths = {len(image.stem) for image, _ in pairs}
        form = f"%0{widths.pop()}d" if len(widths) == 1 else "%d"
        if all(form % int(mask.stem) == image.stem for image, mask in pairs):
            name = f'"$(printf {form} $((10#${{f%{suffix}}}))){suffix}"'
            return f'cd {folder} && for f in [0-9]*{suffix}; do mv -n "$f" {name}; done'
        return None
    before, found, after = mask.stem.partition(image.stem)
    if not found or any(m.stem != f"{before}{i.stem}{after}" for i, m in pairs):
        return None
    start, end = shlex.quote(before) if before else "", shlex.quote(after + suffix)
    rename = f'n=${{f#{start}}}; mv -n "$f" "${{n%{end}}}{suffix}"'
    return f"cd {folder} && for f in {start}*{end}; do {rename}; done"
