"""The official CelebAMask-HQ release -> a folder to train on, in the challenge's layout.

    python -m jaxparse.prepare CELEBAMASK_HQ_DIR --output DIR

Masks are the release's parts painted over each other, at its 512x512 pixels. Pictures are halved
to 512x512 while decoding: libjpeg's 4x4 inverse DCT leaves out the upper frequencies, which is
antialiasing. They are saved at quality 95, 4:4:4: the release's 4:2:0 at 1024x1024 has its colour
at 512x512. Threads suffice: Pillow decodes and encodes outside of the interpreter's lock.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from jaxparse import cli
from jaxparse.data.celebamask import (
    CHALLENGE_COUNTS,
    MASK_SIZE,
    OFFICIAL_COUNTS,
    PAINT_ORDERS,
    PART_MASKS,
    PARTS,
    PER_FOLDER,
    PICTURE_SIZE,
    PICTURES,
    challenge_like_split,
    find_parts,
    official_split,
)
from jaxparse.data.folders import find_pairs
from jaxparse.data.images import READ_ERRORS, open_mask, write_mask
from jaxparse.files import (
    atomic_path,
    brief,
    read_ahead,
    reason,
    require_writable_folder,
    sole_run,
    writing,
)

RECORD = "prepare.json"  # in the output: the settings that made it
SPLITTERS = {  # each with the counts that it gives for the whole release
    "official": (official_split, OFFICIAL_COUNTS),
    "challenge-like": (challenge_like_split, CHALLENGE_COUNTS),
}
JPEG_QUALITY = 95
BYTES_PER_PICTURE = 90_000  # on disk, with its mask; the mean of 40 was 80,000
LAST_BYTES = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
FAULTS_SHOWN = 50


@dataclass(frozen=True)
class Face:
    """A picture of the release, the masks of its parts by name, and the two files to write."""

    picture: Path
    parts: dict[str, Path]
    image: Path
    mask: Path


def read_picture(path: Path) -> Image.Image:
    """The picture at MASK_SIZE, RGB. Raises ValueError if it is damaged or of another size."""
    with _reading(path), Image.open(path, formats=["JPEG"]) as picture:
        _require_size(picture, PICTURE_SIZE)
        picture.draft(None, (MASK_SIZE, MASK_SIZE))
        return picture.convert("RGB")


def paint_mask(parts: dict[str, Path], order: tuple[str, ...]) -> np.ndarray:
    """Classes uint8 [512, 512]: 0, and each part over those before it in `order`."""
    label = np.zeros((MASK_SIZE, MASK_SIZE), np.uint8)
    for part in order:
        if part in parts:
            label[read_part(parts[part])] = PARTS.index(part) + 1
    return label


def read_part(path: Path) -> np.ndarray:
    """Where the part is, bool [512, 512]: values of 128 and more.

    Raises ValueError for a damaged file, or one of another size, mode or range.
    """
    with _reading(path), open_mask(path, ("PNG",)) as picture:
        _require_size(picture, MASK_SIZE)
        if picture.mode not in ("1", "L", "P", "RGB"):
            raise ValueError(f"mode {picture.mode}, expected 1, L, P or RGB")
        values = np.asarray(picture.convert("L"))
        if values.max() not in (0, 255):
            raise ValueError(f"values up to {values.max()}, expected 0 and 255")
    return values >= 128


def _require_size(picture: Image.Image, size: int) -> None:
    if picture.size != (size, size):
        raise ValueError(f"{picture.width}x{picture.height}, expected {size}x{size}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        raise ValueError(f"cannot use {path} ({reason(error)}); unpack it again") from error


def is_complete(path: Path) -> bool:
    """Whether the file has its end marker; after a power cut it may be empty or end in zeros."""
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            return file.read().endswith(LAST_BYTES[path.suffix])
    except OSError:
        return False


def make_face(face: Face, order: tuple[str, ...]) -> None:
    """Writes those of the face's two files that are not complete."""
    label = None if is_complete(face.mask) else paint_mask(face.parts, order)
    image = None if is_complete(face.image) else read_picture(face.picture)
    with writing(face.image.stem, face.image.parent.parent, "files already written are kept"):
        if image is not None:
            with atomic_path(face.image) as temporary:
                image.save(temporary, quality=JPEG_QUALITY, subsampling="4:4:4")
        if label is not None:
            write_mask(face.mask, label)


def make_faces(faces: list[Face], order: tuple[str, ...], num_workers: int) -> list[str]:
    """Makes all of them with a progress bar; returns a line on each whose sources are bad."""
    made = read_ahead(partial(make_face, order=order), faces, num_workers)
    made = cli.track(made, len(faces), "pictures")
    return [str(fault) for _, fault in made if fault]


def find_faces(
    release: Path, output: Path, split: dict[str, list[int]]
) -> tuple[list[Face], list[str]]:
    """The split's faces, and a line on each bad name, missing picture, picture without parts."""
    parts, faults = find_parts(release)
    pictures = {path.name for path in (release / PICTURES).glob("*.jpg")}
    faces = []
    for name, numbers in split.items():
        images, masks = output / name / f"{name}_image", output / name / f"{name}_mask"
        for number in numbers:
            picture = release / PICTURES / f"{number}.jpg"
            if picture.name not in pictures:
                faults.append(f"there is no {picture}; unpack it again")
            if number not in parts:
                masks_of = release / PART_MASKS / str(number // PER_FOLDER) / f"{number:05d}_*.png"
                faults.append(f"picture {picture} has no {masks_of}; unpack them again")
            image, mask = images / f"{number}.jpg", masks / f"{number}.png"
            faces.append(Face(picture, parts.get(number, {}), image, mask))
    return faces, faults


def keep_record(output: Path, settings: dict[str, Any]) -> None:
    """Writes `settings` into the output. Raises ValueError if it was made with others."""
    path = output / RECORD
    text = json.dumps(settings, indent=1) + "\n"
    if not path.exists():
        if splits := [name for name in settings["pictures"] if (output / name).exists()]:
            raise ValueError(
                f"{output} holds {splits[0]} but no {RECORD}, so this command did not make it; "
                "give another --output"
            )
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    if (earlier := path.read_text(errors="replace")) != text:
        lines = [line.strip(" ,") for line in earlier.splitlines() if line not in text.splitlines()]
        said = ", ".join(map(brief, lines[:5])) or "less than it was written"
        raise ValueError(
            f"{path} says {said}, unlike this command; give another --output, or the same flags "
            "and lists of CelebA as before"
        )


def make_record(split: str, paint: str, numbers: dict[str, list[int]]) -> dict[str, Any]:
    """The settings that decide what the output holds."""
    return {
        "split": split,
        "pictures": {name: len(of_split) for name, of_split in numbers.items()},
        "split_sha256": hashlib.sha256(json.dumps(numbers).encode()).hexdigest(),
        "paint": paint,
        "size": MASK_SIZE,
        "jpeg_quality": JPEG_QUALITY,
    }


def require_space(output: Path, count: int) -> None:
    """Raises ValueError if the disk has no room for so many pictures with masks."""
    free, needed = shutil.disk_usage(output).free, count * BYTES_PER_PICTURE
    if free < needed:
        raise ValueError(
            f"{output} has {free / 1e9:.1f} GB free, and {count} pictures with masks need about "
            f"{needed / 1e9:.1f} GB; free space or give another --output"
        )


def require_complete(output: Path, split: dict[str, list[int]]) -> None:
    """Raises ValueError unless the output holds exactly the split's pairs, all of MASK_SIZE."""
    for name, numbers in split.items():
        pairs = find_pairs(output, name) if numbers else []
        for pair in pairs:
            if pair.size != (MASK_SIZE, MASK_SIZE):
                height, width = pair.size
                raise ValueError(
                    f"{pair.image} is {width}x{height}, expected {MASK_SIZE}x{MASK_SIZE}; remove "
                    "it and its mask, and run the same command again"
                )
        if extra := {pair.image.stem for pair in pairs} ^ set(map(str, numbers)):
            raise ValueError(
                f"{output / name} and the split differ in picture {min(extra)}; remove it if it "
                "exists, and run the same command again"
            )


def prepare(
    release: Path,
    /,
    output: Path,
    split: Literal["official", "challenge-like"] = "official",
    paint: Literal["official", "accessories-last"] = "official",
    num_workers: int = os.cpu_count() or 1,
) -> None:
    """Makes a folder to train and evaluate on from the official CelebAMask-HQ release.

    Complete files in the output are kept: after Ctrl-C, a kill or a full disk the same command
    resumes.

    Args:
        release: Folder with CelebA-HQ-img, CelebAMask-HQ-mask-anno and the mapping to CelebA.
        output: Folder to write: train/train_image, train/train_mask, val/…, test/….
        split: CelebA's own of 24183/2993/2824 pictures, which needs its list_eval_partition.txt; or
            5000/1000/1000 drawn from it, as many as the challenge had but not the same ones.
        paint: Order in which overlapping parts are painted: the release's, or glasses, hat,
            earrings and necklace last. Scores on masks of different orders are not comparable.
        num_workers: Threads.

    Prints a line on every bad file. Raises ValueError unless all pictures are there with masks.
    """
    if num_workers < 1:
        raise ValueError(f"--num-workers is {num_workers}; give 1 or more")
    require_writable_folder(output)
    splitter, whole_counts = SPLITTERS[split]
    numbers = splitter(release)
    counts = {name: len(of_split) for name, of_split in numbers.items()}
    if counts != whole_counts:
        print(f"note: {counts}; the whole release would give {whole_counts}", file=sys.stderr)
    faces, faults = find_faces(release, output, numbers)
    if not faults:
        with sole_run(output):
            keep_record(output, make_record(split, paint, numbers))
            for path in output.glob("*/*/.*.*.*"):  # a killed run's temporary files
                path.unlink()
            to_make = [
                face for face in faces if not (is_complete(face.image) and is_complete(face.mask))
            ]
            require_space(output, len(to_make))
            faults = make_faces(to_make, PAINT_ORDERS[paint], num_workers)
    if faults:
        print(*faults[:FAULTS_SHOWN], sep="\n", file=sys.stderr)
        raise ValueError(f"{len(faults)} bad files; fix them and run the same command again")
    require_complete(output, numbers)
    print(f"{output} is complete: {counts}, with masks, {MASK_SIZE}x{MASK_SIZE}")


def main() -> None:
    """Command line: `CELEBAMASK_HQ_DIR --output DIR`."""
    cli.command(prepare, "prepare")


if __name__ == "__main__":
    cli.run(main)
