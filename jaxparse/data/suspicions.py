"""Masks that can be read and can hardly be meant."""

from functools import partial

import numpy as np

from jaxparse.classes import IGNORE_LABEL, Classes
from jaxparse.data.folders import match_names, other_files_line
from jaxparse.data.masks import read_label
from jaxparse.files import read_ahead

FEW = 5  # masks, among which every class may be in all by chance; and classes, as few
SAMPLE = 16  # masks that are read before training


def suspicions(split: str, pictures: np.ndarray, total: int, classes: Classes) -> list[str]:
    """Lines on the `total` masks of a split, of which `pictures` [256] hold each label value."""
    values, lines = set(np.flatnonzero(pictures).tolist()), []
    if IGNORE_LABEL in values <= {0, IGNORE_LABEL}:
        name = classes.names[-1] if len(classes) == 2 else "CLASS"
        lines.append(
            f"warning: the masks of {split} hold only 0 and 255, so only {classes.names[0]} and "
            "ignored pixels: if 255 is a class, say so in the file of the table that they are in: "
            f'"values": {{"255": "{name}"}}'
        )
    if total >= FEW and len(classes) > FEW and (pictures[: len(classes)] == total).all():
        lines.append(
            f"warning: every class is in every mask of {split}: they were probably resized with "
            "interpolation; resize by nearest neighbour"
        )
    return lines


def data_warnings(data_dir: str, classes: Classes, labels_are: Classes | None = None) -> list[str]:
    """Lines on both splits: files that are not taken, and `suspicions` on SAMPLE masks of each.

    The masks are spread evenly; unreadable ones are left out.
    """
    lines = []
    for split in ("train", "val"):
        if line := other_files_line(data_dir, split):
            lines.append(line)
        masks = [mask for _, mask in match_names(data_dir, split)[0]]
        chosen = {masks[i] for i in np.linspace(0, len(masks) - 1, SAMPLE).round().astype(int)}
        read = read_ahead(
            partial(read_label, classes=classes, labels_are=labels_are),
            sorted(chosen),
            num_threads=4,
        )
        labels = [label for _, label in read if not isinstance(label, ValueError)]
        values = [np.bincount(label.ravel(), minlength=256) > 0 for label in labels]
        lines += suspicions(split, np.sum([np.zeros(256), *values], axis=0), len(values), classes)
    return lines
