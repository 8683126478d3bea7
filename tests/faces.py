"""Labelled drawn faces of many sizes, as a data folder."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask

# 4 + 3 in batches of 4.
SIZES = [(64, 64), (37, 91), (64, 128), (50, 70), (33, 65), (1, 128), (60, 100)]


def write_faces(folder: Path) -> Path:
    """Drawn faces, stretched to `SIZES`, five columns of every mask ignored."""
    for index, (height, width) in enumerate(SIZES):
        image, label = map(Image.fromarray, draw_face(0, index, 64))
        label = np.array(label.resize((width, height), Image.Resampling.NEAREST))
        label[:, -5:] = 255
        image = np.asarray(image.resize((width, height)))
        write_image(folder / "val" / "images" / f"{index}.png", image)
        write_mask(folder / "val" / "masks" / f"{index}.png", label)
    return folder
