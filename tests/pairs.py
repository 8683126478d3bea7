"""Pairs of pictures and masks on disk, for tests."""

from pathlib import Path

import numpy as np

from jaxparse.config import Config
from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask

CHALLENGE = ("{split}_image", "{split}_mask")
PLAIN = ("images", "masks")


def make_pair(
    folder: Path,
    split: str,
    index: int,
    size: tuple[int, int] = (16, 16),
    layout: tuple = CHALLENGE,
) -> tuple[Path, Path]:
    """Writes pair number `index`, every pixel of image and mask set to it; size is (H, W)."""
    image_dir, mask_dir = (folder / split / name.format(split=split) for name in layout)
    image, mask = image_dir / f"{index:03d}.png", mask_dir / f"{index:03d}.png"
    write_image(image, np.full((*size, 3), index, np.uint8))
    write_mask(mask, np.full(size, index, np.uint8))
    return image, mask


def make_split(folder: Path, split: str, count: int) -> Config:
    """Writes pairs 0 to count - 1; the config of a run on them."""
    for index in range(count):
        make_pair(folder, split, index)
    return Config(data_dir=str(folder), image_size=16, batch_size=4, num_workers=2)
