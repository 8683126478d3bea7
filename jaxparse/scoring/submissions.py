"""The zip of masks that a face parsing challenge takes: packing one, and finding its faults.

`server` is the format of the CelebAMask-HQ challenge: one folder of any name with a PNG per test
image. `codabench` is that of the newer challenges on CodaBench (NTU, 1000 training pictures): the
same PNGs in `masks/`, and in the test phase `solution/` with the code beside it. Both want 512x512
pixels of 8 bit, the classes 0..18 themselves, and the name of the image except for the suffix.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxparse.classes import NUM_CLASSES
from jaxparse.data.folders import find_images
from jaxparse.data.images import READ_ERRORS
from jaxparse.files import atomic_path, read_ahead, reason
from jaxparse.scoring.zip_names import Format, ZipNames, mask_folder

SIZE = (512, 512)
SHOWN_FAULTS = 20
# NotImplementedError: a member of a newer zip version.
ZIP_ERRORS = (*READ_ERRORS, zipfile.BadZipFile, NotImplementedError)
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
COLOURS = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale and alpha", 6: "RGBA"}
GREYSCALE_OR_PALETTE = (0, 3)


class Inspection(NamedTuple):
    """What is in a zip: a line per fault, sorted; a line per oddity that no server refuses."""

    count: int  # good masks
    faults: list[str]
    warnings: list[str]


def decode_mask(data: bytes) -> np.ndarray:
    """A PNG's classes, uint8 [512, 512]. Raises ValueError that says what no server would take."""
    if not data.startswith(PNG_START) or len(data) < 26:
        raise ValueError("is not a PNG; convert it (renaming is not enough)")
    # From the header: Pillow shows palettes of 1, 2 and 4 bits as mode P too.
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (width, height) != SIZE:
        raise ValueError(f"is {width}x{height}, expected 512x512; resize by nearest neighbour")
    if depth != 8 or colour not in GREYSCALE_OR_PALETTE:
        found = f"{depth}-bit {COLOURS.get(colour, 'unknown')}"
        raise ValueError(f"is {found}, expected 8-bit palette or greyscale (mode P or L)")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.verify()  # the checksums, which decoding skips
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            label = np.asarray(picture)
    except READ_ERRORS as error:
        raise ValueError(f"cannot be decoded ({reason(error)}); write it again") from error
    if label.max() >= NUM_CLASSES:
        bad = ", ".join(map(str, np.unique(label[label >= NUM_CLASSES])[:5]))
        raise ValueError(f"holds {bad}, outside 0..{NUM_CLASSES - 1}; give every pixel a class")
    return label


def inspect_submission(path: Path, images: Path | Sequence[Path], format: Format) -> Inspection:
    """Reads the whole zip in threads; `images` are the test images or their folder.

    Raises ValueError for a folder without images or two images of one name; faults of the zip,
    also a missing one, are in the result.
    """
    wanted = mask_names(images)
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        return Inspection(
            0, [f"{path}: cannot be read as a zip ({reason(error)}); zip it again"], []
        )
    with archive:
        names = ZipNames(archive.infolist(), mask_folder(path, format), wanted, format)
        if not names.files:
            return Inspection(0, [f"{path}: holds no file; expected {len(wanted)} masks"], [])
        faults = names.faults()
        good = [name for name in names.files if name not in faults]
        masks = {}
        read = partial(_read_member, archive, names.folder)
        for name, result in read_ahead(read, good, os.cpu_count() or 1):
            if isinstance(result, ValueError):
                faults[name] = str(result)
            elif result is not None:
                masks[name] = result
    # A name may hold anything, line breaks too.
    lines = [f"{n if n.isprintable() else ascii(n)}: {fault}" for n, fault in faults.items()]
    return Inspection(len(masks), sorted(lines), _warnings(masks))


def mask_names(images: Path | Sequence[Path]) -> dict[str, Path]:
    """Name of the mask -> its image. Raises ValueError for two of one name."""
    names: dict[str, Path] = {}
    for image in find_images([images] if isinstance(images, Path) else images):
        other = names.setdefault(f"{image.stem}.png", image)
        if other != image:
            raise ValueError(f"{other} and {image} would share the mask {image.stem}.png; keep one")
    return names


def _read_member(archive: zipfile.ZipFile, folder: str, name: str) -> int | None:
    """The mask's checksum, 0 for a mask of only background; None for code. Raises ValueError."""
    try:
        data = archive.read(name)
    except ZIP_ERRORS as error:
        raise ValueError(f"cannot be unpacked ({reason(error)}); zip it again") from error
    if not name.startswith(f"{folder}/"):
        return None
    label = decode_mask(data)
    return zlib.crc32(label) if label.any() else 0


def _warnings(masks: dict[str, int]) -> list[str]:
    found = []
    if len(masks) > 1 and len(set(masks.values())) == 1:
        found.append(f"all {len(masks)} masks are the same")
    empty = sorted(name for name, checksum in masks.items() if not checksum)
    if empty:
        found.append(f"{len(empty)} of {len(masks)} masks are all background, first {empty[0]}")
    return found


def check_submission(path: Path, images: Path | Sequence[Path], format: Format) -> list[str]:
    """A line per fault of the zip, each beginning with the file's name; none if it is good."""
    return inspect_submission(path, images, format).faults


def write_submission(
    masks: Path, images: Path | Sequence[Path], output: Path, format: Format
) -> list[str]:
    """Packs masks/STEM.png of every image, byte for byte; the same masks give the same zip.

    Other files in `masks` are skipped. The zip is checked before it replaces `output`: raises
    ValueError with a line per fault (the first 20) and keeps the old file. Returns warnings.
    """
    if output.suffix != ".zip":
        raise ValueError(f"{output} does not end in .zip; name the submission so")
    wanted = mask_names(images)
    names = sorted(name for name in wanted if (masks / name).is_file())
    if not names:
        raise ValueError(
            f"{masks} holds no mask of the images; expected {next(iter(wanted), 'STEM.png')} …"
        )
    with atomic_path(output) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in names:
                entry = zipfile.ZipInfo(f"{mask_folder(output, format)}/{name}")  # of 1980, stored
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # rw-r--r--
                archive.writestr(entry, (masks / name).read_bytes())
        report = inspect_submission(temporary, images, format)
        if report.faults:
            lines = fault_lines(report.faults)
            raise ValueError("\n".join([f"{output} is not written:", *lines]))
    return report.warnings


def fault_lines(faults: list[str]) -> list[str]:
    """The first 20, and how many more."""
    more = len(faults) - SHOWN_FAULTS
    return faults[:SHOWN_FAULTS] + ([f"and {more} more"] if more > 0 else [])
