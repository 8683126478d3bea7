"""The official CelebAMask-HQ release on disk: its masks of parts, and CelebA's split.

Lee et al. 2020, "MaskGAN", arXiv:1907.11922; https://github.com/switchablenorms/CelebAMask-HQ.
Masks are the release's parts painted over each other, at its 512x512 pixels. Pictures are halved
to 512x512 while decoding: libjpeg's 4x4 inverse DCT leaves out the upper frequencies, which is
antialiasing. They are saved at quality 95, 4:4:4: the release's 4:2:0 at 1024x1024 has its colour
at 512x512.
"""

import hashlib
import io
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxparse.classes import CELEBAMASK
from jaxparse.data.masks import open_mask
from jaxparse.data.releases.release import SPLITS, Face, Release, digest, unpacked
from jaxparse.files import brief

PICTURES = "CelebA-HQ-img"
PART_MASKS = "CelebAMask-HQ-mask-anno"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION = "list_eval_partition.txt"

PICTURE_SIZE = 1024  # height and width of 0.jpg, …
MASK_SIZE = 512  # of 00000_skin.png, …
PER_FOLDER = 2000  # pictures whose part masks share a folder
JPEG_QUALITY = 95
BYTES_PER_PICTURE = 90_000  # on disk, with its mask; the mean of 40 was 80,000

# By class: the part at position i is class i + 1.
# fmt: off
PARTS = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth",
    "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)
# fmt: on

# From bottom to top: each part is painted over those before it.
PAINT_ORDERS = {
    # In class order, as in the release's g_mask.py: neck and cloth hide necklaces, eyes glasses.
    "official": PARTS,
    # FaRL (Zheng et al. 2022, arXiv:2112.03109), farl/datasets/celebamask_hq.py, label_type "all".
    # fmt: off
    "accessories-last": (
        "neck",
        "skin",
        "cloth",
        "l_ear",
        "r_ear",
        "l_brow",
        "r_brow",
        "l_eye",
        "r_eye",
        "nose",
        "mouth",
        "l_lip",
        "u_lip",
        "hair",
        "eye_g",
        "hat",
        "ear_r",
        "neck_l",
    ),
    # fmt: on
}

OFFICIAL_COUNTS = {"train": 24183, "val": 2993, "test": 2824}
CHALLENGE_COUNTS = {"train": 5000, "val": 1000, "test": 1000}


def official_split(release: Path) -> dict[str, list[int]]:
    """Split -> its pictures' numbers, ascending, by CelebA's partition, where SPLITS have numbers.

    Raises ValueError for a missing or malformed list, and for a whole release that the lists do
    not split into OFFICIAL_COUNTS. Lists of fewer pictures pass.
    """
    mapping, partition = _read_mapping(release), _read_partition(release)
    split: dict[str, list[int]] = {name: [] for name in SPLITS}
    for number, celeba_file in sorted(mapping.items()):
        if celeba_file not in partition:
            raise ValueError(
                f"{release / PARTITION} lacks {brief(celeba_file)}, which {MAPPING} gives as "
                f"CelebA's name of picture {number}; copy both files again"
            )
        split[partition[celeba_file]].append(number)
    counts = {name: len(numbers) for name, numbers in split.items()}
    if sum(counts.values()) >= sum(OFFICIAL_COUNTS.values()) and counts != OFFICIAL_COUNTS:
        raise ValueError(
            f"{release / PARTITION} and {MAPPING} give {counts}; expected {OFFICIAL_COUNTS}: copy "
            "both files again"
        )
    return split


def challenge_like_split(release: Path) -> dict[str, list[int]]:
    """Split -> its pictures' numbers, ascending: as many as the challenge had, not the same ones.

    The challenge's list is not public. These are the first CHALLENGE_COUNTS of each official split
    in the fixed order of `_draw`. Without PARTITION all pictures are first divided 5:1:1 in that
    order. A release of fewer pictures gives fewer. Raises as official_split.
    """
    if _partition_file(release).exists():
        pools = official_split(release)
    else:
        numbers = _draw(_read_mapping(release))
        first, second = len(numbers) * 5 // 7, len(numbers) * 6 // 7
        parts = numbers[:first], numbers[first:second], numbers[second:]
        pools = dict(zip(SPLITS, parts, strict=True))
    return {name: sorted(_draw(pools[name])[: CHALLENGE_COUNTS[name]]) for name in SPLITS}


def _draw(numbers: Iterable[int]) -> list[int]:
    """The numbers in the order of their hashes: a shuffle that no new version of NumPy changes."""
    return sorted(numbers, key=lambda n: hashlib.sha256(f"challenge-like {n}".encode()).digest())


def _read_mapping(release: Path) -> dict[int, str]:
    """Number of the picture -> name of its file in CelebA."""
    hint = "it is part of the release: unpack it again, or give the folder that holds it"
    pattern = r"([0-9]{1,9})[\s,]+[0-9]+[\s,]+([^\s,]+)|idx[\s,]+orig_idx[\s,]+orig_file"
    rows = _read_rows(release / MAPPING, pattern, hint)
    return {int(number): celeba_file for number, celeba_file in rows if number}


def _read_partition(release: Path) -> dict[str, str]:
    """Name of the file in CelebA -> train, val or test."""
    hint = (
        "it belongs to CelebA, not to this release: download it from the folder Eval of "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or give --split challenge-like"
    )
    pattern = r"([^\s,]+)[\s,]+([012])|image_id[\s,]+partition"  # the second is Kaggle's header
    rows = _read_rows(_partition_file(release), pattern, hint)
    return {celeba_file: SPLITS[int(part)] for celeba_file, part in rows if part}


def _partition_file(release: Path) -> Path:
    """CelebA's PARTITION, or Kaggle's copy of it as CSV."""
    kaggle = (release / PARTITION).with_suffix(".csv")
    return kaggle if kaggle.exists() and not (release / PARTITION).exists() else release / PARTITION


def _read_rows(path: Path, pattern: str, hint: str) -> list[tuple[str | None, ...]]:
    """The pattern's groups on every line that is not blank."""
    if not path.is_file():
        raise ValueError(f"there is no {path}; {hint}")
    rows = []
    for number, line in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), start=1):
        row = re.fullmatch(pattern, line.strip())
        if line.strip() and not row:
            raise ValueError(f"line {number} of {path} is {line[:60]!r}; copy the whole file again")
        if row:
            rows.append(row.groups())
    return rows


def find_parts(release: Path) -> tuple[dict[int, dict[str, Path]], list[str]]:
    """Number of the picture -> part -> its mask, and a line on each PNG that is not such a mask."""
    base = release / PART_MASKS
    if not base.is_dir():
        raise ValueError(
            f"there is no {base}; give the release's folder, which holds {PICTURES}, {PART_MASKS} "
            f"and {MAPPING}"
        )
    parts: dict[int, dict[str, Path]] = {}
    faults = []
    for path in sorted(base.glob("*/[!.]*.png")):
        name = re.fullmatch(r"(\d{5})_(\w+)", path.stem)
        if not name or name[2] not in PARTS:
            faults.append(
                f"{path} is not the mask of a part; expected 00000_PART.png, {' '.join(PARTS)}"
            )
        elif path.parent.name != str(int(name[1]) // PER_FOLDER):
            folder = base / str(int(name[1]) // PER_FOLDER)
            faults.append(f"{path} is in the wrong folder; expected it in {folder}")
        else:
            parts.setdefault(int(name[1]), {})[name[2]] = path
    return parts, faults


SPLITTERS = {  # each with the counts that it gives for the whole release
    "official": (official_split, OFFICIAL_COUNTS),
    "challenge-like": (challenge_like_split, CHALLENGE_COUNTS),
}


def is_celebamask(folder: Path) -> bool:
    """Whether the folder has a part of the release."""
    return any((folder / name).exists() for name in (PICTURES, PART_MASKS, MAPPING))


def read_celebamask(folder: Path, split: str, paint: str) -> Release:
    """What the folder holds for a split of SPLITTERS, with masks painted in PAINT_ORDERS[paint]."""
    splitter, whole = SPLITTERS[split]
    numbers = splitter(folder)
    faces, faults = find_faces(folder, numbers, PAINT_ORDERS[paint])
    return Release(
        classes=CELEBAMASK,
        faces=faces,
        faults=faults,
        folders=("{}_image", "{}_mask"),
        num_bytes=BYTES_PER_PICTURE * sum(map(len, faces.values())),
        record=make_record(split, paint, numbers),
        size=MASK_SIZE,
        whole=whole,
    )


def find_faces(
    folder: Path, numbers: dict[str, list[int]], order: tuple[str, ...]
) -> tuple[dict[str, list[Face]], list[str]]:
    """The split's faces, and a line on each bad name, missing picture, picture without parts."""
    parts, faults = find_parts(folder)
    pictures = {path.name for path in (folder / PICTURES).glob("*.jpg")}
    faces: dict[str, list[Face]] = {split: [] for split in numbers}
    for split, of_split in numbers.items():
        for number in of_split:
            picture = folder / PICTURES / f"{number}.jpg"
            if picture.name not in pictures:
                faults.append(f"there is no {picture}; unpack it again")
            if number not in parts:
                masks_of = folder / PART_MASKS / str(number // PER_FOLDER) / f"{number:05d}_*.png"
                faults.append(f"picture {picture} has no {masks_of}; unpack them again")
            label = partial(paint_mask, parts.get(number, {}), order)
            faces[split].append(Face(str(number), partial(encode_picture, picture), label))
    return faces, faults


def make_record(split: str, paint: str, numbers: dict[str, list[int]]) -> dict[str, Any]:
    """The settings that decide what is written."""
    return {
        "split": split,
        "pictures": {name: len(of_split) for name, of_split in numbers.items()},
        "split_sha256": digest(numbers),
        "paint": paint,
        "size": MASK_SIZE,
        "jpeg_quality": JPEG_QUALITY,
    }


def encode_picture(path: Path) -> bytes:
    """The picture as a JPEG of MASK_SIZE."""
    file = io.BytesIO()
    read_picture(path).save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return file.getvalue()


def read_picture(path: Path) -> Image.Image:
    """The picture at MASK_SIZE, RGB. Raises ValueError if it is damaged or of another size."""
    with unpacked(path), Image.open(path, formats=["JPEG"]) as picture:
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
    with unpacked(path), open_mask(path, ("PNG",)) as picture:
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
