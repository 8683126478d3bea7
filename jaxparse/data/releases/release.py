"""What every release comes to: faces by split, each with a picture and a mask to write."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxparse.classes import Classes
from jaxparse.data.images import READ_ERRORS, open_picture
from jaxparse.data.masks import open_mask
from jaxparse.files import reason

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Face:
    """The name of a face's two files, and what to write into them.

    `image` gives the bytes of a JPEG, `label` classes uint8 [H, W]. Both read files of the release,
    and raise ValueError that names the one that is damaged or not as expected.
    """

    name: str
    image: Callable[[], bytes]
    label: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Release:
    """What a release holds."""

    classes: Classes  # of its masks
    faces: Mapping[str, list[Face]]  # by split, sorted
    faults: list[str]  # a line on each file that is missing, alone or misnamed
    folders: tuple[str, str]  # of images and masks in a split's; {} is the split
    num_bytes: int  # about what all images and masks will take on disk
    record: dict[str, Any]  # the settings that decide what is written
    size: int | None = None  # height and width of what is written, if all have the same
    whole: Mapping[str, int] | None = None  # faces by split, where a whole release's are known

    def counts(self) -> dict[str, int]:
        """Faces by split."""
        return {split: len(faces) for split, faces in self.faces.items()}


def in_plain_layout(
    name: str, classes: Classes, faces: Mapping[str, list[Face]], faults: list[str], num_bytes: int
) -> Release:
    """A release with a split of its own, for which there is nothing to choose."""
    names = {split: [face.name for face in of_split] for split, of_split in faces.items()}
    counts = {split: len(of_split) for split, of_split in names.items()}
    record = {"release": name, "pictures": counts, "names_sha256": digest(names)}
    return Release(classes, faces, faults, ("images", "masks"), num_bytes, record)


def digest(split: Mapping[str, list[Any]]) -> str:
    """SHA-256 of which pictures are in which split."""
    return hashlib.sha256(json.dumps(split).encode()).hexdigest()


@contextmanager
def unpacked(path: Path) -> Iterator[None]:
    """Turns errors on reading the file into a ValueError that names it and the fix."""
    try:
        yield
    except READ_ERRORS as error:
        raise ValueError(f"cannot use {path} ({reason(error)}); unpack it again") from error


def copied(path: Path) -> bytes:
    """The bytes of a JPEG that can be decoded to its end."""
    with unpacked(path), open_picture(path, ("JPEG", "MPO")) as picture:
        picture.load()
        return path.read_bytes()


def read_grey(path: Path, modes: tuple[str, ...] = ("L",)) -> np.ndarray:
    """The values uint8 [H, W] of an 8-bit PNG: grey levels, or palette indices in mode P."""
    with unpacked(path), open_mask(path, ("PNG",)) as picture:
        if picture.mode not in modes:
            raise ValueError(f"mode {picture.mode}, expected 8-bit {' or '.join(modes)}")
        return np.array(picture)
