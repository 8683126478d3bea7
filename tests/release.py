"""A release of CelebAMask-HQ with 12 drawn pictures, at the real sizes."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxparse.data.releases.celebamask import MAPPING, PARTITION, PARTS

COUNT = 12
SPLIT = {"train": [1, 2, 4, 5, 7, 8, 10, 11], "val": [0, 6], "test": [3, 9]}
MODES = ("RGB", "L", "P", "1")
CLASSES = {part: value for value, part in enumerate(PARTS, start=1)}


def write_part(path: Path, where: np.ndarray, mode: str = "RGB") -> Path:
    Image.fromarray(np.where(where, 255, 0).astype(np.uint8)).convert(mode).save(path)
    return path


def draw_parts(number: int) -> dict[str, np.ndarray]:
    """Some of the parts as overlapping rectangles, bool [512, 512]."""
    rng = np.random.default_rng(number)
    parts = {}
    for part in rng.permutation(PARTS)[: 5 + number]:
        top, left = rng.integers(0, 400, 2)
        bottom, right = rng.integers((top + 1, left + 1), 513)
        parts[str(part)] = np.zeros((512, 512), bool)
        parts[str(part)][top:bottom, left:right] = True
    return parts


def write_release(release: Path) -> Path:
    for number in range(COUNT):
        picture = release / "CelebA-HQ-img" / f"{number}.jpg"
        masks = release / "CelebAMask-HQ-mask-anno" / "0"
        picture.parent.mkdir(exist_ok=True)
        masks.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (1024, 1024), (20 * number, 90, 30)).save(picture)
        for index, (part, where) in enumerate(draw_parts(number).items()):
            write_part(masks / f"{number:05d}_{part}.png", where, MODES[index % 4])
    files = {number: f"{100 + 7 * number % 12:06d}.jpg" for number in range(COUNT)}
    rows = (f"{number} 0 {file}\n" for number, file in files.items())
    (release / MAPPING).write_text("idx orig_idx orig_file\n" + "".join(rows))
    part_of = {number: part for part, name in enumerate(SPLIT) for number in SPLIT[name]}
    rows = sorted(f"{file} {part_of[number]}\n" for number, file in files.items())
    (release / PARTITION).write_text("".join(rows))
    return release


def expected_label(number: int, order: tuple[str, ...]) -> np.ndarray:
    """By rank instead of by painting: at each pixel the part that is last in `order`."""
    parts = draw_parts(number)
    none = np.zeros((512, 512), bool)
    ranks = np.stack([parts.get(part, none) for part in order]) * np.arange(1, 19)[:, None, None]
    return np.array([0, *(CLASSES[part] for part in order)])[ranks.max(0)]
