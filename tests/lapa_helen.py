"""LaPa and Helen as distributed, with a few drawn faces."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from jaxparse.data.drawn.picture import draw_face

# By class of CelebAMask-HQ: what the two have in its place. Neither has glasses, ears, hats, …
ELEVEN = np.array([0, 1, 6, 1, 4, 5, 2, 3, 0, 0, 8, 7, 9, 10, 0, 0, 0, 0, 0], np.uint8)
LAPA = {"train": ["7_0", "HELEN_1_2", "LFPW_3"], "val": ["8_1"], "test": ["9_0", "9_1"]}
HELEN = {"train": ["100_1", "232194_1"], "val": ["3_1"], "test": ["4_1"]}
LISTS = {"train": "exemplars.txt", "val": "tuning.txt", "test": "testing.txt"}


def drawn(index: int) -> tuple[Image.Image, np.ndarray]:
    """A face, its height a little less than its width, and its mask of eleven classes."""
    size = (64, 96, 90)[index % 3]
    image, label = draw_face(3, index, size)
    return Image.fromarray(image[: size - 2]), ELEVEN[label[: size - 2]]


def write_lapa(folder: Path) -> Path:
    names = [(split, name) for split, names in LAPA.items() for name in names]
    for index, (split, name) in enumerate(names):
        for kind in ("images", "labels", "landmarks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        image, label = drawn(index)
        image.save(folder / split / "images" / f"{name}.jpg")
        Image.fromarray(label).save(folder / split / "labels" / f"{name}.png")
        (folder / split / "landmarks" / f"{name}.txt").write_text("106\n")
    return folder


def soft_maps(label: np.ndarray) -> np.ndarray:
    """Blurred indicators of the classes, uint8 [11, H, W]."""
    hard = [Image.fromarray(np.uint8(255 * (label == index))) for index in range(11)]
    return np.stack([np.asarray(one.filter(ImageFilter.GaussianBlur(2))) for one in hard])


def write_helen(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    names = [(split, name) for split, names in HELEN.items() for name in names]
    for index, (_, name) in enumerate(names):
        image, label = drawn(index)
        image.save(folder / "images" / f"{name}.jpg")
        maps = folder / "labels" / name
        maps.mkdir(parents=True)
        for part, values in enumerate(soft_maps(label)):
            Image.fromarray(values).save(maps / f"{name}_lbl{part:02}.png")
    for split, file in LISTS.items():
        rows = (f"{number} , {name}\n" for number, name in enumerate(HELEN[split]))
        (folder / file).write_text("".join(rows))
    return folder
