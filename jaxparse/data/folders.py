"""Folders on disk -> pairs of picture and mask, checked by their headers.

Two layouts are known: that of the CelebAMask-HQ challenge (`train/train_image`,
`train/train_mask`) and the plain one (`train/images`, `train/masks`); `val` likewise.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jaxparse.config import SYNTHETIC
from jaxparse.data.images import read_size, require_equal_sizes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)
FOREIGN_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless: other tools' masks
PREDICT_SUFFIXES = (*IMAGE_SUFFIXES, ".bmp", ".webp", ".tif", ".tiff")
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
    found = []
    for path in paths:
        if path.is_dir():
            found += _pictures(path, PREDICT_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"there is no {path}; expected a picture or a folder of pictures")
    return found


def _pictures(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The folder's files of these suffixes, sorted by name, hidden ones left out."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]
    if not files:
        raise ValueError(f"{folder} is empty; expected {', '.join(suffixes)} files in it")
    return sorted(files)


def find_pairs(data_dir: str | Path, split: str, keep_bad: bool = False) -> list[Pair]:
    """The pairs of `split` (train or val), matched by name without suffix and sorted by it.

    Reads every file's header, no pixels. Raises ValueError with the first fault and the number
    of the others: missing or empty folder, image or mask alone, different sizes, unreadable file.
    With `keep_bad` the last two are no fault: such pairs keep their place, with the size (1, 1).
    """
    matches, faults = match_names(data_dir, split)
    _raise_first(faults, data_dir)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        pairs = list(pool.map(_read_sizes, matches))
    if keep_bad:
        return [
            Pair(*match, (1, 1)) if isinstance(pair, ValueError) else pair
            for match, pair in zip(matches, pairs, strict=True)
        ]
    _raise_first([str(pair) for pair in pairs if isinstance(pair, ValueError)], data_dir)
    return pairs


def match_names(data_dir: str | Path, split: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, mask) paths of equal name without suffix, and a line on each file without partner.

    Raises ValueError if a folder is missing or empty.
    """
    image_dir, mask_dir = _find_folders(Path(data_dir) / split, split)
    images, image_faults = _by_stem(_pictures(image_dir, IMAGE_SUFFIXES))
    masks, mask_faults = _by_stem(_pictures(mask_dir, MASK_SUFFIXES))
    faults = image_faults + mask_faults
    for stem in sorted(images.keys() - masks.keys()):
        wanted = mask_dir / f"{stem}.png"
        faults.append(f"image {images[stem]} has no mask; add {wanted} or remove the image")
    for stem in sorted(masks.keys() - images.keys()):
        wanted = f"{image_dir / stem}.jpg (.jpeg, .png)"
        faults.append(f"mask {masks[stem]} has no image; add {wanted} or remove the mask")
    return [(images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys())], faults


def match_masks(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """(prediction, label) paths of two folders, of equal name without suffix and sorted by it.

    Overlays that `jaxparse.predict` writes beside its masks are passed over. Raises ValueError if a
    folder is missing or empty, or a mask has no partner.
    """
    found = []
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}; expected masks in it")
        masks, faults = _by_stem(_pictures(folder, FOREIGN_MASK_SUFFIXES))
        if faults:
            raise ValueError(faults[0])
        found.append(masks)
    predicted, labelled = found
    overlays = {f"{stem}_overlay" for stem in predicted}
    predicted = {stem: path for stem, path in predicted.items() if stem not in overlays}
    alone = _alone(labelled, predicted, "prediction", predictions)
    alone += _alone(predicted, labelled, "label", labels)
    if alone:
        raise ValueError(f"{'; '.join(alone)}: give the masks of the same pictures, equally named")
    return [(predicted[stem], labelled[stem]) for stem in sorted(predicted)]


def _alone(masks: dict[str, Path], others: dict[str, Path], other: str, folder: Path) -> list[str]:
    """At most one line: how many of `masks` have no partner in `others`, and the first three."""
    stems = sorted(masks.keys() - others.keys())
    if not stems:
        return []
    examples = ", ".join([str(masks[stem]) for stem in stems[:3]] + ["…"] * (len(stems) > 3))
    return [f"{len(stems)} of {len(masks)} masks have no {other} in {folder} ({examples})"]


def _find_folders(base: Path, split: str) -> tuple[Path, Path]:
    challenge = base / f"{split}_image", base / f"{split}_mask"
    plain = base / "images", base / "masks"
    for image_dir, mask_dir in (challenge, plain):
        if image_dir.is_dir() and mask_dir.is_dir():
            return image_dir, mask_dir
    raise ValueError(
        f"{base} lacks its folders; expected {challenge[0]} and {challenge[1]}, or {plain[0]} and "
        f"{plain[1]}: make them or give another --data-dir (`{SYNTHETIC}` needs no files)"
    )


def _by_stem(paths: list[Path]) -> tuple[dict[str, Path], list[str]]:
    """Name without suffix -> path, and a line on each file whose name is taken (a.jpg, a.png)."""
    found: dict[str, Path] = {}
    faults = []
    for path in paths:
        if found.setdefault(path.stem, path) != path:
            faults.append(f"{path} has the name of {found[path.stem].name}; rename or remove one")
    return found, faults


def _read_sizes(match: tuple[Path, Path]) -> Pair | ValueError:
    """The pair, or what is wrong with it."""
    image, label = match
    try:
        size = read_size(image)
        require_equal_sizes(image, size, label, read_size(label))
    except ValueError as error:
        return error
    return Pair(image, label, size)


def _raise_first(faults: list[str], data_dir: str | Path) -> None:
    if len(faults) == 1:
        raise ValueError(faults[0])
    if faults:
        command = f"python -m jaxparse.data --check {data_dir}"
        raise ValueError(f"{faults[0]} (and {len(faults) - 1} more bad files; {command} lists all)")
