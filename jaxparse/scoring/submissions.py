"""The zip of masks for a face parsing challenge: packing one, and listing its faults.

`server` is the format of the CelebAMask-HQ challenge: one folder of any name with a PNG per test
image. `codabench` is that of the newer challenges on CodaBench (NTU, 1000 training pictures): the
same PNGs in `masks/`, and in the test phase `solution/` with the code beside it. Both want masks of
512x512 pixels of 8 bits that hold the classes 0..18, each named as its image but for the suffix.
"""

import io
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from jaxparse.classes import CELEBAMASK
from jaxparse.data.folders import find_images
from jaxparse.data.images import READ_ERRORS, Header, read_header
from jaxparse.data.png import require_whole_png
from jaxparse.files import (
    FaultsError,
    atomic_path,
    brief,
    read_ahead,
    reason,
    require_writable_file,
)

Format = Literal["server", "codabench"]
CODE_FILES = ("solution/ckpt.pth", "solution/requirements.txt", "solution/run.py")
STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LEFTOVERS = {"__macosx", "thumbs.db", "desktop.ini"}  # and every hidden file, as .DS_Store
# NotImplementedError: a member of a newer zip version.
ZIP_ERRORS = (*READ_ERRORS, zipfile.BadZipFile, NotImplementedError)
SHOWN_FAULTS = 20
LARGEST_MASK = 1 << 22  # bytes; of 512x512 pixels of 8 bits it is 0.3 MB at most

SIZE = (512, 512)
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
COLOURS = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale and alpha", 6: "RGBA"}
GREYSCALE_OR_PALETTE = (0, 3)


def mask_folder(path: Path, format: Format) -> str:
    """The folder in the zip at `path` that holds the masks."""
    return "masks" if format == "codabench" else path.stem


def mask_names(images: Path | Sequence[Path]) -> dict[str, Path]:
    """Name of the mask -> its image. Raises ValueError for two images of one mask."""
    names: dict[str, Path] = {}
    for image in find_images([images] if isinstance(images, Path) else images):
        other = names.setdefault(f"{image.stem}.png", image)
        if other != image:
            raise ValueError(f"{other} and {image} would share the mask {image.stem}.png; keep one")
    return names


class ZipNames:
    """The names in a zip, compared with those of the masks that belong in it.

    `images` maps the name of a mask to its image. `folder` is where the masks belong; `server`
    accepts any single folder name.
    """

    def __init__(
        self,
        entries: list[zipfile.ZipInfo],
        folder: str,
        images: dict[str, Path],
        format: Format,
    ) -> None:
        self.entries = entries
        self.counts = Counter(entry.filename for entry in self.entries)
        self.files = [entry.filename for entry in self.entries if not entry.is_dir()]
        self.images = images
        self.spellings = {_loose(name): name for name in images}
        self.code = ("solution/",) if format == "codabench" else ()
        if format == "server":
            # Of several folders the fullest is the one meant, so that the faults name the others.
            used = Counter(n.split("/")[0] for n in self.files if "/" in n and not _is_leftover(n))
            folder = max(used, key=used.__getitem__, default=folder)
        self.folder = folder

    def faults(self) -> dict[str, str]:
        """Name in the zip, or of what is missing -> what is wrong."""
        faults = {e.filename: fault for e in self.entries if (fault := self._entry_fault(e))}
        code = {name for name in self.files if name.startswith(self.code)}
        others = (name for name in self.files if name not in code and not _is_leftover(name))
        for name in self.images.keys() - map(self._meant, others):
            faults[f"{self.folder}/{name}"] = f"is missing; {self.images[name]} has no mask"
        for name in set(CODE_FILES) - code if code else ():
            faults[name] = "is missing; the test phase runs the code"
        return faults

    def _meant(self, name: str) -> str | None:
        """The mask that the file is probably meant to be, whatever its folder and spelling."""
        file = name.replace("\\", "/").split("/")[-1]
        return file if file in self.images else self.spellings.get(_loose(file))

    def _entry_fault(self, entry: zipfile.ZipInfo) -> str | None:
        name = entry.filename
        parts = name.removesuffix("/").split("/")
        if "\\" in name or ":" in parts[0] or {"", ".", ".."} & set(parts):
            return "is not a plain path inside the zip; zip the folder itself, with / in the names"
        if self.counts[name] > 1:
            return f"is in the zip {self.counts[name]} times; keep one"
        if entry.flag_bits & 1:
            return "is encrypted; zip without a password"
        if entry.compress_type not in STORED_OR_DEFLATED:
            return f"has compression method {entry.compress_type}; store or deflate it"
        if name.startswith(self.code):
            return None
        if _is_leftover(name):
            return "is a leftover of the operating system or an editor; zip without it"
        if entry.is_dir():
            empty = not any(file.startswith(name) for file in self.files)
            return f"is a second folder; expected only {brief(self.folder)}/" if empty else None
        file = parts[-1]
        if parts[:-1] != [self.folder]:
            expected = brief(f"{self.folder}/{file}")
            return f"is not directly in {brief(self.folder)}/; expected {expected}"
        if file in self.images:
            return None
        meant = self._meant(file)
        if meant is None or f"{self.folder}/{meant}" in self.counts:
            return "belongs to no image; remove it"
        fix = "rename it" if file.lower().endswith(".png") else "save it as a PNG"
        return f"is not named as its image, expected {meant}; {fix}"


def _is_leftover(name: str) -> bool:
    parts = name.lower().split("/")
    return any(part in LEFTOVERS or (part[:1] == "." and part.strip(".")) for part in parts)


def _loose(file: str) -> str:
    """The name without what people get wrong: suffix, case, leading zeros."""
    return Path(file).stem.lower().lstrip("0")


def decode_mask(data: bytes) -> np.ndarray:
    """A PNG's classes, uint8 [512, 512]. Raises ValueError that says what a server would refuse."""
    if not data.startswith(PNG_START) or len(data) < 26:
        raise ValueError("is not a PNG; convert it (renaming is not enough)")
    # From the header: Pillow shows palettes of 1, 2 and 4 bits as mode P too.
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (width, height) != SIZE:
        raise ValueError(f"is {width}x{height}, expected 512x512; resize by nearest neighbour")
    if depth != 8 or colour not in GREYSCALE_OR_PALETTE:
        kind = f"{depth}-bit {COLOURS.get(colour, 'unknown')}"
        raise ValueError(f"is {kind}, expected 8-bit palette or greyscale (mode P or L)")
    try:
        require_whole_png(data)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            label = np.asarray(picture)
    except READ_ERRORS as error:
        raise ValueError(f"cannot be decoded ({reason(error)}); write it again") from error
    classes = len(CELEBAMASK)  # the challenges'
    if label.max() >= classes:
        bad = ", ".join(map(str, np.unique(label[label >= classes])[:5]))
        raise ValueError(f"holds {bad}, outside 0..{classes - 1}; give every pixel a class")
    return label


class Inspection(NamedTuple):
    """What is in a zip: a line per fault, sorted; a line per oddity that no server refuses."""

    count: int  # good masks
    faults: list[str]  # each begins with the name of a file
    warnings: list[str]


def inspect_submission(path: Path, images: Path | Sequence[Path], format: Format) -> Inspection:
    """Reads the whole zip in threads; `images` are the test images or their folder.

    Raises ValueError for a folder without images or two images of one name; faults of the zip,
    also a missing one, are in the result.
    """
    expected = mask_names(images)
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        return Inspection(
            0, [f"{path}: cannot be read as a zip ({reason(error)}); zip it again"], []
        )
    with archive:
        names = ZipNames(archive.infolist(), mask_folder(path, format), expected, format)
        if not names.files:
            return Inspection(0, [f"{path}: holds no file; expected {len(expected)} masks"], [])
        faults = names.faults()
        good = [name for name in names.files if name not in faults]
        masks = {}
        read = partial(_read_member, archive, names.folder)
        for name, result in read_ahead(read, good, os.cpu_count() or 1):
            if isinstance(result, ValueError):
                faults[name] = str(result)
            elif result is not None:
                masks[name] = result
    # A name may hold anything, line breaks too, in 64 KiB.
    lines = [f"{brief(name)}: {fault}" for name, fault in faults.items()]
    return Inspection(len(masks), sorted(lines), _warnings(masks))


def _read_member(archive: zipfile.ZipFile, folder: str, name: str) -> int | None:
    """The mask's checksum, 0 for a mask of only background; None for code. Raises ValueError."""
    size, is_mask = archive.getinfo(name).file_size, name.startswith(f"{folder}/")
    if is_mask and size > LARGEST_MASK:
        raise ValueError(f"has {size} bytes, which no mask of 512x512 pixels has; write it again")
    try:
        with archive.open(name) as member:
            data = member.read(LARGEST_MASK)
            while member.read(LARGEST_MASK):  # code: only its checksum counts
                pass
    except ZIP_ERRORS as error:
        raise ValueError(f"cannot be unpacked ({reason(error)}); zip it again") from error
    if not is_mask:
        return None
    label = decode_mask(data)
    return zlib.crc32(label) if label.any() else 0


def _warnings(masks: dict[str, int]) -> list[str]:
    warnings = []
    if len(masks) > 1 and len(set(masks.values())) == 1:
        warnings.append(f"all {len(masks)} masks are the same")
    empty = sorted(name for name, checksum in masks.items() if not checksum)
    if empty:
        warnings.append(f"{len(empty)} of {len(masks)} masks are all background, first {empty[0]}")
    return warnings


def require_output(output: Path, flag: str = "--output") -> None:
    """Raises ValueError unless a submission can be written there; before pictures are predicted."""
    if output.suffix != ".zip":
        raise ValueError(f"{flag} {output} does not end in .zip; name the submission so")
    require_writable_file(output, flag)


def require_sizes(images: Sequence[Path]) -> None:
    """Raises ValueError if the masks of these pictures will have a size that no server takes."""
    headers = read_ahead(read_header, images, os.cpu_count() or 1)
    wrong = [image for image, h in headers if isinstance(h, Header) and h.size != SIZE[::-1]]
    if wrong:
        height, width = read_header(wrong[0]).size
        raise ValueError(
            f"{len(wrong)} of {len(images)} pictures are not 512x512 as a submission's masks must "
            f"be, first {wrong[0]} ({width}x{height}); give the challenge's own test images"
        )


def write_submission(
    masks: Path,
    images: Path | Sequence[Path],
    output: Path,
    format: Format,
    solution: Path | None = None,
) -> list[str]:
    """Packs masks/STEM.png of every image, byte for byte; the same masks give the same zip.

    Other files in `masks` are skipped; those in `solution`, the code, go into solution/. The zip is
    checked before it replaces `output`: raises ValueError with a line per fault (the first 20) and
    keeps the old file. Returns warnings.
    """
    require_output(output)
    expected = mask_names(images)
    names = sorted(name for name in expected if (masks / name).is_file())
    if not names:
        example = min(expected, default="STEM.png")
        raise ValueError(f"{masks} holds no mask of the images; expected {example} …")
    members = {f"{mask_folder(output, format)}/{name}": masks / name for name in names}
    if solution:
        code = sorted(path for path in solution.rglob("*") if path.is_file())
        members |= {f"solution/{path.relative_to(solution).as_posix()}": path for path in code}
    with atomic_path(output) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, path in members.items():
                entry = zipfile.ZipInfo(name)  # of 1980, stored
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # rw-r--r--
                archive.writestr(entry, path.read_bytes())
        inspection = inspect_submission(temporary, images, format)
        if inspection.faults:
            raise FaultsError(f"{output} is not written:", fault_lines(inspection.faults))
    return inspection.warnings


def fault_lines(faults: list[str]) -> list[str]:
    """The first 20, and how many more."""
    more = len(faults) - SHOWN_FAULTS
    return faults[:SHOWN_FAULTS] + ([f"and {more} more"] if more > 0 else [])
