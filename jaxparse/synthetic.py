"""Writes drawn faces with their masks as a data folder.

python -m jaxparse.synthetic DIR --count 4000
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("synthetic")

import itertools
from pathlib import Path

from tyro.conf import Positional

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, Classes, becomes, convert_label
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask
from jaxparse.files import require_writable_folder

VAL_START = 1_000_000  # index of the first face to evaluate on, beyond any training face


def write_faces(
    output: Positional[Path],
    count: int,
    val_count: int = 200,
    size: int = 512,
    seed: int = 0,
    classes: Classes = CELEBAMASK,
) -> None:
    """Writes drawn faces as JPEG and palette PNG, in the layout of the CelebAMask-HQ challenge.

    Args:
        output: Folder to write: train/train_image, train/train_mask, val/val_image, val/val_mask.
        count: Pictures to train on.
        val_count: Pictures to evaluate on; none of them is a training picture.
        size: Height and width in pixels.
        seed: Another seed gives other faces.
        classes: Table of the masks, one that can be made from celebamask.

    Raises ValueError for numbers out of range, OSError if a file cannot be written.
    """
    if not 1 <= count <= VAL_START or val_count < 0 or size < 1 or seed < 0:
        raise ValueError(
            f"cannot draw {count} + {val_count} faces of size {size}, seed {seed}; give --count "
            f"1..{VAL_START}, --size >= 1, --val-count and --seed >= 0"
        )
    becomes(CELEBAMASK, classes)  # raises if it cannot
    require_writable_folder(output)
    train = (("train", index) for index in range(count))
    val = (("val", index) for index in range(VAL_START, VAL_START + val_count))
    for split, index in cli.track(itertools.chain(train, val), count + val_count, "drawing"):
        image, label = draw_face(seed, index, size)
        write_image(output / split / f"{split}_image" / f"{index:07d}.jpg", image)
        write_mask(
            output / split / f"{split}_mask" / f"{index:07d}.png",
            convert_label(label, CELEBAMASK, classes),
            classes,
        )


def main() -> None:
    """Command line: `--output DIR --count N`."""
    cli.command(write_faces, "synthetic", {"--output": ""})
