"""Pictures -> masks at their own sizes, as palette PNG.

    python -m jaxparse.predict --input FILE_OR_DIR... --output DIR
    python -m jaxparse.predict --weights FILE_OR_RUN --input FILE_OR_DIR... --output DIR [--overlay]
    python -m jaxparse.predict --weights FILE_OR_RUN --input TEST_IMAGES --submission test_mask.zip

Threads read ahead and write behind.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro
from PIL import Image

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, Classes
from jaxparse.data.folders import find_images, other_files
from jaxparse.data.images import write_image
from jaxparse.data.layouts import listed
from jaxparse.devices import use_compilation_cache
from jaxparse.files import atomic_path, read_ahead, require_writable_folder
from jaxparse.parsing.parser import NO_TEST_TIME, Parser, Parsing, Photograph, Picture, TestTime
from jaxparse.scoring.submissions import Format, require_output, require_sizes, write_submission
from jaxparse.weights.files import SHIPPED
from jaxparse.weights.find import load_network

SHIPPED_LINE = "no --weights: the small network of jaxparse, for non-commercial use (docs/tiny.md)"
DESCRIPTION = ".json"  # the one file of a photograph without a face
Writer = Callable[[Path, Parsing], None]


class NoFaceError(ValueError):
    """A photograph has no mask, since no face was found in it."""


def write_overlay(path: Path, parsing: Parsing) -> None:
    """Writes the blended picture; re-reads the picture, so that it need not stay in memory."""
    write_image(path, np.asarray(parsing.overlay()))


def write_logits(path: Path, parsing: Parsing) -> None:
    """Writes the whole picture's logits at the first scale, float32 [h, w, C], as .npy."""
    with atomic_path(path) as temporary:
        np.save(temporary, parsing.levels[0].logits[0])


def write_description(path: Path, photograph: Photograph) -> None:
    """Writes where its faces are, as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(photograph.describe()) + "\n")


def write_each_face(folder: Path, photograph: Photograph) -> None:
    """Writes aligned crop and mask of face I, I.jpg and I.png, into the folder."""
    for index, face in enumerate(photograph.each_face()):
        write_image(folder / f"{index}.jpg", face.source)
        face.save(folder / f"{index}.png")


def make_writers(
    overlay: bool, logits: bool, faces: bool = False, each_face: bool = False
) -> dict[str, Writer]:
    """The files written for STEM.jpg: what follows STEM in the name -> its writer."""
    writers: dict[str, Writer] = {".png": lambda path, parsing: parsing.save(path)}
    if overlay:
        writers["_overlay.png"] = write_overlay
    if logits:
        writers[".npy"] = write_logits
    if faces:
        writers[DESCRIPTION] = write_description
    if each_face:
        writers["_faces"] = write_each_face
    return writers


def require_free(paths: Iterable[Path], output: Path, endings: Iterable[str]) -> None:
    """Raises ValueError if files written to `output` could replace an input or each other."""
    writers: dict[str, Path] = {}
    for path in paths:
        if output.resolve() in (path.parent.resolve(), path.resolve().parent):
            raise ValueError(
                f"--output {output} is the folder of the input {path}, which might be overwritten; "
                "give another folder"
            )
        for ending in endings:
            name = f"{path.stem}{ending}"
            if writers.setdefault(name, path) != path:
                raise ValueError(
                    f"{writers[name]} and {path} would both be written to {output / name}; rename "
                    "one, or give each its own --output"
                )


def predict_files(
    parser: Parser,
    paths: list[Path],
    output: Path,
    writers: dict[str, Writer],
    num_workers: int,
) -> Iterator[ValueError | None]:
    """Writes the files of every picture; yields, per picture, its error or None.

    Errors are yielded at once and may overtake pictures that are still in a batch.
    """
    faults: deque[ValueError] = deque()

    def good() -> Iterator[Picture]:
        for _, picture in read_ahead(parser.prepare, paths, num_workers):
            if isinstance(picture, ValueError):
                faults.append(picture)
            else:
                yield picture

    def write(parsing: Parsing) -> None:
        faceless = isinstance(parsing, Photograph) and not parsing.faces
        for ending, writer in writers.items():
            if ending == DESCRIPTION or not faceless:
                writer(output / f"{Path(parsing.source).stem}{ending}", parsing)
        if faceless:
            raise NoFaceError(f"no face is found in {parsing.source}: it gets no mask")

    for _, fault in read_ahead(write, parser.parse(good()), num_workers):
        while faults:
            yield faults.popleft()
        yield fault
    yield from faults


def write_masks(
    parser: Parser, paths: list[Path], output: Path, writers: dict[str, Writer], num_workers: int
) -> tuple[int, int]:
    """`predict_files` with a progress bar and a line for each picture without a mask.

    Returns how many could not be read, and in how many no face was found.
    """
    output.mkdir(parents=True, exist_ok=True)
    written = predict_files(parser, paths, output, writers, num_workers)
    bad = faceless = 0
    for fault in cli.track(written, len(paths), "predicting"):
        if fault is not None:
            faceless += isinstance(fault, NoFaceError)
            bad += not isinstance(fault, NoFaceError)
            print(fault, file=sys.stderr)
    return bad, faceless


def predict(
    input: list[Path],
    weights: str | None = None,
    output: Path | None = None,
    exp: str | None = None,
    overlay: bool = False,
    logits: bool = False,
    faces: bool = False,
    each_face: bool = False,
    classes: Classes | None = None,
    submission: Path | None = None,
    format: Format = "server",
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = NO_TEST_TIME,
    size_limit: float | None = None,
    batch_size: int = 4,
    num_workers: int = 4,
) -> int:
    """Writes a mask STEM.png, with the classes as values, for every picture STEM.jpg.

    Args:
        input: Pictures and folders of pictures.
        weights: A weights file (.safetensors), the folder of a run (its best weights), or a
            repository of the Hugging Face hub (user/name); default: the network that comes with
            jaxparse.
        output: Folder to write to; not needed with --submission.
        exp: Experiment whose settings replace those stored with the weights.
        overlay: Also write STEM_overlay.png, the picture blended with its mask, with a legend.
        logits: Also write STEM.npy, float32 [h, w, C] at the network's resolution, of its classes.
        faces: The pictures are whole photographs: find their faces, mask each, put the masks back,
            and write STEM.json with boxes, points and scores.
        each_face: As --faces, and write into a folder STEM_faces, for face I, its aligned crop
            I.jpg and the crop's mask I.png.
        classes: Table of the masks' classes, which the network's can become by merging; default:
            the network's.
        submission: Zip of the masks to write, and check, for a challenge's server.
        format: Layout of that zip. `server`: masks in one folder; `codabench`: in a folder masks.
        size_limit: Megapixels above which a picture is refused, since a small file can claim a size
            that no memory holds; default: Pillow's limit, 179.
        batch_size: Pictures per call of the network.
        num_workers: Threads that read pictures, and as many that write.

    Returns 1 if a picture could not be read, or no face was found in any of them, else 0.
    """
    faces = faces or each_face
    if logits and faces:
        raise ValueError("--logits are of the whole picture; leave out --logits or --faces")
    if submission and faces:
        raise ValueError("--submission is of pictures that a face fills; leave out --faces")
    if submission and classes:
        raise ValueError("--submission needs the classes celebamask; leave out --classes")
    if not (output or submission):
        raise ValueError("give --output FOLDER for the masks, or --submission FILE.zip")
    if size_limit is not None:
        if not 0 < size_limit < inf:
            raise ValueError(f"--size-limit is {size_limit}; give megapixels above 0")
        Image.MAX_IMAGE_PIXELS = int(size_limit * 1e6 / 2)  # Pillow refuses twice as many
    paths = list(dict.fromkeys(find_images(input)))
    if not paths:
        raise ValueError("--input is empty; give pictures or folders of pictures")
    if output:
        require_writable_folder(output)
    if submission:
        require_output(submission, "--submission")
        require_sizes(paths)
    writers = make_writers(overlay, logits, faces, each_face)
    with nullcontext(output) if output else TemporaryDirectory() as folder:
        require_free(paths, Path(folder), writers)
        if weights is None:
            print(SHIPPED_LINE, file=sys.stderr)
        config, *arrays = load_network(weights or SHIPPED, exp)
        batch_size = min(batch_size, len(paths))
        config = replace(config, batch_size=batch_size, num_workers=num_workers)
        classes = CELEBAMASK if submission else classes
        parser = Parser(config, *arrays, test_time, classes, faces)
        bad, faceless = write_masks(parser, paths, Path(folder), writers, num_workers)
        masks = len(paths) - bad - faceless
        skipped = f", {bad} of {len(paths)} pictures skipped" if bad else ""
        skipped += f", no face found in {faceless} of {len(paths)}" if faceless else ""
        if output:
            print(f"{masks} masks in {output}{skipped}")
            if others := other_files(input):
                print(f"not taken for pictures: {len(others)} ({listed(others)})")
        if submission:
            for warning in write_submission(Path(folder), paths, submission, format):
                print("warning:", warning, file=sys.stderr)
            print(f"wrote {submission}: {len(paths)} masks, checked")
    return 1 if bad or not masks else 0


def main() -> int:
    """Command line of `predict`."""
    use_compilation_cache()
    return cli.command(predict, "predict", {"--workdir": "--weights"})


if __name__ == "__main__":
    cli.run(main)
