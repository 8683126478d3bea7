"""LaPa on disk: a folder for each split, with pictures, masks of 11 classes, and landmarks.

Liu et al. 2020, "A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing",
AAAI; https://github.com/jd-opensource/lapa-dataset, whose labelmap.txt numbers the classes. The
landmarks are not read.
"""

from functools import partial
from pathlib import Path

import numpy as np

from jaxparse.classes import load_classes
from jaxparse.data.folders import pair_by_stem
from jaxparse.data.images import read_header, require_match
from jaxparse.data.releases.release import SPLITS, Face, Release, copied, in_plain_layout, read_grey

IMAGES, LABELS = "images", "labels"
CLASSES = load_classes("lapa")
MASK_BYTES = 10_000  # of a palette PNG, in the mean


def is_lapa(folder: Path) -> bool:
    """Whether the folder has a split of LaPa's form."""
    return any((folder / split / LABELS).is_dir() for split in SPLITS)


def read_lapa(folder: Path) -> Release:
    """What the folder holds. Raises ValueError if one of its six folders is missing."""
    faces, faults, num_bytes = {}, [], 0
    for split in SPLITS:
        images, labels = folder / split / IMAGES, folder / split / LABELS
        for needed in (images, labels):
            if not needed.is_dir():
                raise ValueError(
                    f"there is no {needed}; LaPa has {IMAGES} and {LABELS} in {', '.join(SPLITS)}: "
                    "unpack it again"
                )
        paired = pair_by_stem(sorted(images.glob("[!.]*.jpg")), sorted(labels.glob("[!.]*.png")))
        faces[split] = [
            Face(image.stem, partial(copied, image), partial(read_classes, image, label))
            for image, label in paired.pairs
        ]
        num_bytes += sum(image.stat().st_size + MASK_BYTES for image, _ in paired.pairs)
        faults += [
            f"there is no {labels / image.stem}.png; unpack it again" for image in paired.only_first
        ]
        faults += [
            f"there is no {images / label.stem}.jpg; unpack it again"
            for label in paired.only_second
        ]
    return in_plain_layout("LaPa", CLASSES, faces, faults, num_bytes)


def read_classes(image: Path, path: Path) -> np.ndarray:
    """The mask as it is, uint8 [H, W] of 0..10. Raises ValueError for other values or sizes."""
    label = read_grey(path, ("L", "P"))
    if label.max() >= len(CLASSES):
        raise ValueError(
            f"mask {path} holds {label.max()}, outside LaPa's 0..{len(CLASSES) - 1}; unpack it"
        )
    require_match(image, read_header(image), path, read_header(path, "mask"))
    return label
