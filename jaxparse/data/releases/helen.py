"""Helen's masks as Smith et al. distribute them: eleven soft maps for each picture, three lists.

Smith et al. 2013, "Exemplar-Based Face Parsing", CVPR, with pictures of Le et al. 2012;
https://pages.cs.wisc.edu/~lizhang/projects/face-parsing, whose README.txt describes the files
(SmithCVPR2013_dataset_resized and _original). A map holds the probability of one class at every
pixel, 255 for 1. A pixel becomes the most probable class, the lower index where two are equal, and
background where all maps are 0.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from jaxparse.classes import load_classes
from jaxparse.data.images import read_header, require_match
from jaxparse.data.releases.release import Face, Release, copied, in_plain_layout, read_grey

LISTS = {"train": "exemplars.txt", "val": "tuning.txt", "test": "testing.txt"}
IMAGES, LABELS = "images", "labels"
CLASSES = load_classes("helen")
MASK_BYTES = 10_000  # of a palette PNG, in the mean


def is_helen(folder: Path) -> bool:
    """Whether the folder has one of the three lists."""
    return any((folder / name).is_file() for name in LISTS.values())


def read_helen(folder: Path) -> Release:
    """What the folder holds. Raises ValueError for a missing or malformed list."""
    names = {split: read_names(folder / file) for split, file in LISTS.items()}
    faces, faults, num_bytes = {}, [], 0
    for split, of_split in names.items():
        faces[split] = []
        for name in of_split:
            image, maps = folder / IMAGES / f"{name}.jpg", map_paths(folder, name)
            missing = [path for path in (image, *maps) if not path.is_file()]
            faults += [f"there is no {path}; unpack it again" for path in missing[:1]]
            num_bytes += MASK_BYTES + (0 if missing else image.stat().st_size)
            label = partial(most_probable, image, maps)
            faces[split].append(Face(name, partial(copied, image), label))
    return in_plain_layout("Helen", CLASSES, faces, faults, num_bytes)


def read_names(path: Path) -> list[str]:
    """The sorted names in a list, whose lines are `NUMBER , NAME`."""
    if not path.is_file():
        raise ValueError(
            f"there is no {path}; Helen has {', '.join(LISTS.values())}: copy it again"
        )
    names = []
    for number, line in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), start=1):
        row = re.fullmatch(r"\d+\s*,\s*([\w-]+)", line.strip())
        if line.strip() and not row:
            raise ValueError(
                f"line {number} of {path} is {line[:60]!r}, expected NUMBER , NAME; copy the whole "
                "file again"
            )
        if row:
            names.append(row[1])
    return sorted(names)


def map_paths(folder: Path, name: str) -> list[Path]:
    """The maps of a picture's classes, by class."""
    return [folder / LABELS / name / f"{name}_lbl{index:02}.png" for index in range(len(CLASSES))]


def most_probable(image: Path, maps: list[Path]) -> np.ndarray:
    """Classes uint8 [H, W] of soft maps. Raises ValueError if a map is not of the image's size."""
    size = read_header(image)
    highest = np.zeros(size.size, np.uint8)
    label = np.zeros(size.size, np.uint8)
    for index, path in enumerate(maps):
        values = read_grey(path)
        require_match(image, size, path, read_header(path, "mask"))
        label[values > highest] = index
        highest = np.maximum(highest, values)
    return label
