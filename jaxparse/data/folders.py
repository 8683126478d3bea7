"""Folders on disk -> pairs of picture and mask, checked by their headers.

Two layouts are known: that of the CelebAMask-HQ challenge (`train/train_image`,
`train/train_mask`) and the plain one (`train/images`, `train/masks`); `val` likewise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxparse import cli
from jaxparse.config import SYNTHETIC
from jaxparse.data.images import read_header, require_match
from jaxparse.data.layouts import children, listed, mend_layout, mend_names
from jaxparse.files import read_ahead

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
IMAGE_SUFFIXES += (".avif", ".heic", ".heif", ".hif", ".mpo", ".ppm")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless
JPEG = (".jpg", ".jpeg", ".jfif")
HEADER_THREADS = 8  # hides a slow disk's latency; on a fast one a single thread is as quick


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and the size both have: (height, width) in pixels."""

    image: Path
    label: Path
    size: tuple[int, int]


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths` and, sorted, the pictures directly in the folders among them.

    Raises ValueError for a path that does not exist and for a folder without pictures.
    """
    images = []
    for path in paths:
        if path.is_dir():
            images += _pictures(path, IMAGE_SUFFIXES)
        elif path.is_file():
            images.append(path)
        else:
            raise ValueError(f"there is no {path}; expected a picture or a folder of pictures")
    return images


def other_files(paths: Iterable[Path], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """What the folders among `paths` hold that is not taken, hidden files aside."""
    folders = (path for path in paths if path.is_dir())
    return [path for folder in folders for path in children(folder) if not _takes(path, suffixes)]


def sub_folders(folder: Path, without: Path | None = None) -> list[Path]:
    """The folder and all below it, sorted, hidden ones, links and `without` aside."""
    folders = [folder]
    for child in children(folder):
        wanted = child.is_dir() and not child.is_symlink()
        if wanted and (without is None or child.resolve() != without.resolve()):
            folders += sub_folders(child, without)
    return folders


def find_tree(paths: Iterable[Path], without: Path | None = None) -> dict[Path, Path]:
    """As `find_images`, in sub-folders too; picture -> its folder, relative to the one in `paths`.

    The folder `without` is left out.
    """
    images: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            found = dict.fromkeys(find_images([path]), Path())
        elif not (found := _in_tree(path, without)):
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise ValueError(f"there are no {suffixes} files in {path} and its sub-folders")
        images |= found
    return images


def _in_tree(top: Path, without: Path | None) -> dict[Path, Path]:
    return {
        image: folder.relative_to(top)
        for folder in sub_folders(top, without)
        for image in children(folder)
        if _takes(image, IMAGE_SUFFIXES)
    }


def other_files_line(data_dir: str | Path, split: str) -> str | None:
    """A line on what lies in the folders of `split` and is not taken; None if nothing does."""
    image_dir, mask_dir = _find_folders(Path(data_dir), split)
    others = other_files([image_dir]) + other_files([mask_dir], MASK_SUFFIXES)
    if not others:
        return None
    return f"not taken for pictures or masks of {split}: {len(others)} ({listed(others)})"


def _takes(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes and path.is_file()


def _pictures(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The folder's files of these suffixes, sorted by name, without hidden ones."""
    there = children(folder)
    files = [path for path in there if _takes(path, suffixes)]
    if not files:
        found = f"it holds {len(there)} others ({listed(there)})" if there else "it is empty"
        if suffixes == MASK_SUFFIXES and any(path.suffix.lower() in JPEG for path in there):
            found += "; masks in .jpg have lost classes to compression: get lossless ones"
        raise ValueError(f"there are no {', '.join(suffixes)} files in {folder}: {found}")
    return files


class Pairing(NamedTuple):
    """Files of two folders, paired by name without suffix and sorted by it."""

    pairs: list[tuple[Path, Path]]
    only_first: list[Path]
    only_second: list[Path]
    faults: list[str]  # a line on each second file of a name (a.jpg, a.png)


def pair_by_stem(first: list[Path], second: list[Path]) -> Pairing:
    """Pairs the files of two folders."""
    (firsts, taken), (seconds, also_taken) = _by_stem(first), _by_stem(second)
    return Pairing(
        [(firsts[stem], seconds[stem]) for stem in sorted(firsts.keys() & seconds.keys())],
        [firsts[stem] for stem in sorted(firsts.keys() - seconds.keys())],
        [seconds[stem] for stem in sorted(seconds.keys() - firsts.keys())],
        taken + also_taken,
    )


def _by_stem(paths: list[Path]) -> tuple[dict[str, Path], list[str]]:
    """Name without suffix -> path, and a line on each second file of a name (a.jpg, a.png)."""
    by_stem: dict[str, Path] = {}
    faults = []
    for path in paths:
        first = by_stem.setdefault(path.stem, path)
        if first != path:
            faults.append(f"{path} has the same name as {first.name}; rename or remove one")
    return by_stem, faults


def match_names(data_dir: str | Path, split: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, mask) paths of equal name without suffix, and a line on each file without partner.

    One line on all of them if their names differ by a pattern. Raises ValueError if a folder is
    missing or empty.
    """
    image_dir, mask_dir = _find_folders(Path(data_dir), split)
    images, masks = _pictures(image_dir, IMAGE_SUFFIXES), _pictures(mask_dir, MASK_SUFFIXES)
    pairs, without_mask, without_image, faults = pair_by_stem(images, masks)
    if line := mend_names(without_mask, without_image):
        return pairs, [*faults, line]
    for image in without_mask:
        mask = mask_dir / f"{image.stem}.png"
        faults.append(f"image {image} has no mask; add {mask} or remove the image")
    for mask in without_image:
        image = f"{image_dir / mask.stem}.jpg (or another suffix)"
        faults.append(f"mask {mask} has no image; add {image} or remove the mask")
    return pairs, faults


def match_masks(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """(prediction, label) paths of two folders, of equal name without suffix and sorted by it.

    Overlays and regions that `jaxparse.predict` writes beside its masks are skipped. Raises
    ValueError if a folder is missing or empty, or a mask has no partner.
    """
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}; expected masks in it")
    labelled = _pictures(labels, MASK_SUFFIXES)
    predicted = _without_companions(
        _pictures(predictions, MASK_SUFFIXES), {path.stem for path in labelled}
    )
    pairs, without_label, without_prediction, faults = pair_by_stem(predicted, labelled)
    if faults:
        raise ValueError(faults[0])
    if line := mend_names(without_prediction, without_label):
        raise ValueError(line)
    unpaired = _unpaired(without_prediction, len(labelled), "prediction", predictions)
    unpaired += _unpaired(without_label, len(predicted), "label", labels)
    if unpaired:
        raise ValueError(f"{'; '.join(unpaired)}; give both folders masks of the same names")
    return pairs


def _without_companions(predicted: list[Path], labelled: set[str]) -> list[Path]:
    """Without what `predict` writes beside a mask STEM.png: overlays, and regions STEM_NAME.png.

    Masks have a palette and regions have none.
    """
    by_stem = {path.stem: path for path in predicted}

    def is_companion(path: Path) -> bool:
        if path.stem.endswith("_overlay") and path.stem.removesuffix("_overlay") in by_stem:
            return True
        words = path.stem.split("_")
        stems = ("_".join(words[:count]) for count in range(1, len(words)))
        masks = [by_stem[stem] for stem in stems if stem in by_stem]
        return any(map(_has_palette, masks)) and not _has_palette(path)

    return [path for path in predicted if path.stem in labelled or not is_companion(path)]


def _has_palette(path: Path) -> bool:
    return read_header(path, "mask").has_palette


def _unpaired(paths: list[Path], total: int, other: str, folder: Path) -> list[str]:
    """At most one line: how many masks have no partner in `folder`, and the first three."""
    if not paths:
        return []
    examples = ", ".join([str(path) for path in paths[:3]] + ["…"] * (len(paths) > 3))
    return [f"{len(paths)} of {total} masks have no {other} in {folder} ({examples})"]


def _find_folders(data_dir: Path, split: str) -> tuple[Path, Path]:
    if not data_dir.is_dir():
        raise ValueError(
            f"there is no folder {data_dir}; give another --data-dir (`{SYNTHETIC}` needs no files)"
        )
    base = data_dir / split
    challenge = base / f"{split}_image", base / f"{split}_mask"
    plain = base / "images", base / "masks"
    for image_dir, mask_dir in (challenge, plain):
        if image_dir.is_dir() and mask_dir.is_dir():
            return image_dir, mask_dir
    folder = base if base.is_dir() else data_dir
    fix = mend_layout(data_dir, split) or "make them or give another --data-dir"
    raise ValueError(
        f"expected the folders {challenge[0]} and {challenge[1]}, or {plain[0]} and {plain[1]}; "
        f"{folder} holds {listed(children(folder)) or 'nothing'}: {fix}"
    )


def _read_pair(match: tuple[Path, Path]) -> Pair:
    image, label = match
    header = read_header(image)
    require_match(image, header, label, read_header(label, "mask"))
    return Pair(image, label, header.size)


def _raise_first(faults: list[str], data_dir: str | Path) -> None:
    if len(faults) == 1:
        raise ValueError(faults[0])
    if faults:
        command = cli.line_for_shell("data", "--check", data_dir)
        raise ValueError(f"{faults[0]} (and {len(faults) - 1} more bad files; {command} lists all)")


def find_pairs(data_dir: str | Path, split: str, keep_bad: bool = False) -> list[Pair]:
    """The pairs of `split` (train or val), matched by name without suffix and sorted by it.

    Reads every file's header, no pixels. Raises ValueError with the first fault and the number
    of the others: missing or empty folder, image without mask or the reverse, different sizes,
    unreadable file. With `keep_bad` pairs of the last two kinds are kept, with the size (1, 1).
    """
    matches, faults = match_names(data_dir, split)
    _raise_first(faults, data_dir)
    read = list(read_ahead(_read_pair, matches, HEADER_THREADS))
    if not keep_bad:
        _raise_first([str(pair) for _, pair in read if isinstance(pair, ValueError)], data_dir)
    return [Pair(*m, (1, 1)) if isinstance(pair, ValueError) else pair for m, pair in read]
