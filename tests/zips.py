"""Zips of masks for three test images, good ones to be spoilt."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask

STEMS = ("0007", "0130", "2999")
Members = list[tuple[zipfile.ZipInfo, bytes]]


def write_images(folder: Path) -> Path:
    for stem in STEMS:
        write_image(folder / f"{stem}.jpg", np.zeros((8, 8, 3), np.uint8))
    return folder


def write_masks(folder: Path) -> Path:
    for index, stem in enumerate(STEMS):
        write_mask(folder / f"{stem}.png", draw_face(0, index, 512)[1])
    return folder


def encoded(picture: Image.Image, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def grey(*values: int, size: tuple[int, int] = (512, 512)) -> Image.Image:
    """Skin, with pixels of the given values in front."""
    label = np.ones(size, np.uint8)
    label.flat[: len(values)] = values
    return Image.fromarray(label)


def good(folder: str = "test_mask") -> Members:
    masks = {f"{folder}/{stem}.png": encoded(grey(i)) for i, stem in enumerate(STEMS)}
    return [(zipfile.ZipInfo(name), data) for name, data in masks.items()]


def write_zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in members:
            archive.writestr(entry, data)
    return path
