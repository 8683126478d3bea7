"""A data set as its authors distribute it -> a folder to train on.

    python -m jaxparse.prepare RELEASE --output DIR

CelebAMask-HQ, LaPa and Helen are told apart by what lies in the folder; data/releases says how each
becomes pictures and masks. Threads suffice: Pillow decodes and encodes outside of the interpreter's
lock.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("prepare")

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxparse import cli
from jaxparse.classes import Classes
from jaxparse.data.folders import find_pairs
from jaxparse.data.layouts import children, listed
from jaxparse.data.masks import open_mask, write_mask
from jaxparse.data.releases.celebamask import is_celebamask, read_celebamask
from jaxparse.data.releases.helen import is_helen, read_helen
from jaxparse.data.releases.lapa import is_lapa, read_lapa
from jaxparse.data.releases.release import Face, Release
from jaxparse.files import (
    atomic_path,
    brief,
    read_ahead,
    require_writable_folder,
    sole_run,
    writing,
)

RECORD = "prepare.json"  # in the output: the settings that made it
LAST_BYTES = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
FAULTS_SHOWN = 50
SIDES_FROM = 100  # masks


class Task(NamedTuple):
    """A face, its two files to write, and the table of classes that the mask belongs to."""

    face: Face
    image: Path
    mask: Path
    classes: Classes


def read_release(folder: Path, split: str, paint: str) -> Release:
    """What the folder holds. Raises ValueError if it is no release, or not a whole one."""
    if is_celebamask(folder):
        return read_celebamask(folder, split, paint)
    reader = read_lapa if is_lapa(folder) else read_helen if is_helen(folder) else None
    if reader is None:
        there = listed(children(folder)) or "nothing" if folder.is_dir() else "no such folder"
        raise ValueError(
            f"{folder} is not a data set that is known ({there}); expected CelebA-HQ-img and "
            "CelebAMask-HQ-mask-anno (CelebAMask-HQ), train/images and train/labels (LaPa), or "
            "images, labels and exemplars.txt (Helen)"
        )
    if (split, paint) != ("official", "official"):
        raise ValueError(
            f"--split and --paint are for CelebAMask-HQ, and {folder} has a split and whole masks "
            "of its own; leave the flags out"
        )
    return reader(folder)


def make_tasks(release: Release, output: Path) -> list[Task]:
    """All that the output will hold."""
    tasks = []
    for split, faces in release.faces.items():
        images, masks = (output / split / folder.format(split) for folder in release.folders)
        tasks += [
            Task(face, images / f"{face.name}.jpg", masks / f"{face.name}.png", release.classes)
            for face in faces
        ]
    return tasks


def is_complete(path: Path) -> bool:
    """Whether the file has its end marker; after a power cut it may be empty or end in zeros."""
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            return file.read().endswith(LAST_BYTES[path.suffix])
    except OSError:
        return False


def make_face(task: Task) -> None:
    """Writes those of the face's two files that are not complete."""
    label = None if is_complete(task.mask) else task.face.label()
    image = None if is_complete(task.image) else task.face.image()
    with writing(task.face.name, task.image.parent.parent, "files already written are kept"):
        if image is not None:
            with atomic_path(task.image) as temporary:
                temporary.write_bytes(image)
        if label is not None:
            write_mask(task.mask, label, task.classes)


def make_faces(tasks: list[Task], num_workers: int) -> list[str]:
    """Makes all of them with a progress bar; returns a line on each whose sources are bad."""
    made = cli.track(read_ahead(make_face, tasks, num_workers), len(tasks), "pictures")
    return [str(fault) for _, fault in made if fault]


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


def require_space(output: Path, release: Release, count: int) -> None:
    """Raises ValueError if the disk has no room for so many pictures of the release with masks."""
    free = shutil.disk_usage(output).free
    needed = release.num_bytes * count / max(1, sum(release.counts().values()))
    if free < needed:
        raise ValueError(
            f"{output} has {free / 1e9:.1f} GB free, and {count} pictures with masks need about "
            f"{needed / 1e9:.1f} GB; free space or give another --output"
        )


def require_complete(output: Path, release: Release) -> list[Path]:
    """The masks of the output. Raises ValueError unless it holds the release's faces, no others."""
    masks = []
    for split, faces in release.faces.items():
        pairs = find_pairs(output, split) if faces else []
        for pair in pairs:
            if release.size and pair.size != (release.size, release.size):
                height, width = pair.size
                raise ValueError(
                    f"{pair.image} is {width}x{height}, expected {release.size}x{release.size}; "
                    "remove it and its mask, and run the same command again"
                )
        if extra := {pair.image.stem for pair in pairs} ^ {face.name for face in faces}:
            raise ValueError(
                f"{output / split} and the split differ in picture {min(extra)}; remove it if it "
                "exists, and run the same command again"
            )
        masks += [pair.label for pair in pairs]
    return masks


def whose_left(masks: list[Path], classes: Classes) -> str:
    """A line on which side left_eye is, by the first masks with both eyes.

    LaPa and Helen do not say whether left is the person's or the viewer's.
    """
    eyes = classes.index("left_eye"), classes.index("right_eye")
    on_the_right = []
    for path in masks[:SIDES_FROM]:
        with open_mask(path) as picture:
            label = np.asarray(picture)
        left, right = (np.nonzero(label == eye)[1] for eye in eyes)
        if left.size and right.size:
            on_the_right.append(left.mean() > right.mean())
    return (
        f"left_eye lies on the picture's right, as a person's own left does, in "
        f"{sum(on_the_right)} of {len(on_the_right)} masks"
    )


def prepare(
    release: Path,
    /,
    output: Path,
    split: Literal["official", "challenge-like"] = "official",
    paint: Literal["official", "accessories-last"] = "official",
    num_workers: int = os.cpu_count() or 1,
) -> None:
    """Makes a folder to train and evaluate on from CelebAMask-HQ, LaPa or Helen as distributed.

    Complete files in the output are kept: after Ctrl-C, a kill or a full disk the same command
    resumes.

    Args:
        release: Folder with CelebA-HQ-img, CelebAMask-HQ-mask-anno and the mapping to CelebA; or
            with LaPa's train, val and test; or with Helen's images, labels and three lists.
        output: Folder to write: its train, val and test hold pictures and masks.
        split: Of CelebAMask-HQ: CelebA's own of 24183/2993/2824 pictures, which needs its
            list_eval_partition.txt; or 5000/1000/1000 drawn from it, as many as the challenge had
            but not the same ones.
        paint: Of CelebAMask-HQ: order in which overlapping parts are painted: the release's, or
            glasses, hat, earrings and necklace last. Scores on masks of different orders are not
            comparable.
        num_workers: Threads.

    Prints a line on every bad file. Raises ValueError unless all pictures are there with masks.
    """
    if num_workers < 1:
        raise ValueError(f"--num-workers is {num_workers}; give 1 or more")
    require_writable_folder(output)
    found = read_release(release, split, paint)
    counts, faults = found.counts(), found.faults
    if found.whole not in (None, counts):
        print(f"note: {counts}; the whole release would give {found.whole}", file=sys.stderr)
    if not faults:
        with sole_run(output):
            keep_record(output, found.record)
            for path in output.glob("*/*/.*.*.*"):  # a killed run's temporary files
                path.unlink()
            tasks = [
                task
                for task in make_tasks(found, output)
                if not (is_complete(task.image) and is_complete(task.mask))
            ]
            require_space(output, found, len(tasks))
            faults = make_faces(tasks, num_workers)
    if faults:
        print(*faults[:FAULTS_SHOWN], sep="\n", file=sys.stderr)
        count = cli.counted(len(faults), "bad file")
        raise ValueError(f"{count}; replace what is named above and run the same command again")
    masks = require_complete(output, found)
    size = f", {found.size}x{found.size}" if found.size else ""
    print(f"{output} is complete: {counts}, with masks{size}; {whose_left(masks, found.classes)}")


def main() -> None:
    """Command line: `RELEASE --output DIR`."""
    cli.command(prepare, "prepare")
