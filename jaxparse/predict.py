"""Pictures -> masks at their own sizes, as palette PNG.

    python -m jaxparse.predict --workdir RUN --input FILE_OR_DIR... --output DIR [--overlay]
    python -m jaxparse.predict --weights FILE --input FILE_OR_DIR... --output DIR --flip
    python -m jaxparse.predict --weights FILE --input TEST_IMAGES --submission test_mask.zip

Threads read ahead and write behind.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import tyro
from rich.console import Console

from jaxparse import cli
from jaxparse.classes import LabelOrder
from jaxparse.data.folders import find_images
from jaxparse.data.images import write_image, write_mask
from jaxparse.devices import use_compilation_cache
from jaxparse.files import atomic_path, read_ahead
from jaxparse.parsing.parser import PLAIN, Parser, Parsing, Picture, TestTime
from jaxparse.scoring.submissions import write_submission
from jaxparse.scoring.zip_names import Format
from jaxparse.weights.files import load_network

T = TypeVar("T")
Writer = Callable[[Path, Parsing], None]


def read_picture(path: Path, parser: Parser) -> Picture | ValueError:
    """The picture as the parser takes it, or what is wrong with the file."""
    try:
        return parser.prepare(path)
    except ValueError as error:
        return error


def write_overlay(path: Path, parsing: Parsing) -> None:
    """Writes the blended picture; it is read again, so that none waits in memory meanwhile."""
    write_image(path, np.asarray(parsing.overlay()))


def write_logits(path: Path, parsing: Parsing) -> None:
    """Writes float32 [h, w, 19] as .npy: of the whole picture, at the first scale."""
    with atomic_path(path) as temporary:
        np.save(temporary, parsing.levels[0].logits[0, 0, 0])


def make_writers(overlay: bool, logits: bool, order: LabelOrder) -> dict[str, Writer]:
    """What is written for STEM.jpg: ending after STEM -> writer."""
    writers: dict[str, Writer] = {
        ".png": lambda path, parsing: write_mask(path, parsing.mask, order)
    }
    if overlay:
        writers["_overlay.png"] = write_overlay
    if logits:
        writers[".npy"] = write_logits
    return writers


def write_files(
    parsing: Parsing | ValueError, output: Path, writers: dict[str, Writer]
) -> ValueError | None:
    """Writes the files of a picture; an error is handed on."""
    if isinstance(parsing, ValueError):
        return parsing
    for ending, write in writers.items():
        write(output / f"{Path(parsing.source).stem}{ending}", parsing)
    return None


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
                    "one, or give them another --output each"
                )


def predict_files(
    parser: Parser,
    paths: list[Path],
    output: Path,
    writers: dict[str, Writer],
    num_workers: int,
    track: Callable[[Iterable[T]], Iterable[T]] = iter,
) -> Iterator[ValueError]:
    """Writes the files of every picture; yields what is wrong with those that cannot be read.

    `track` is passed an iterator with an item per picture and hands its items on: a progress bar.
    """
    pictures = read_ahead(partial(read_picture, parser=parser), paths, num_workers)
    write = partial(write_files, output=output, writers=writers)
    yield from filter(None, read_ahead(write, track(parser.parse(pictures)), num_workers))


def write_masks(
    parser: Parser, paths: list[Path], output: Path, writers: dict[str, Writer], num_workers: int
) -> int:
    """`predict_files` with a progress bar and a line on each bad picture; how many there were."""
    output.mkdir(parents=True, exist_ok=True)
    bad = 0
    with cli.progress_bar(Console(stderr=True)) as progress:
        track = partial(progress.track, total=len(paths), description="predicting")
        for fault in predict_files(parser, paths, output, writers, num_workers, track):
            bad += 1
            # Not wrapped: people grep and copy these lines.
            progress.console.print(fault, markup=False, highlight=False, soft_wrap=True)
    return bad


def predict(
    input: list[Path],
    output: Path | None = None,
    workdir: str | None = None,
    exp: str | None = None,
    weights: str | None = None,
    overlay: bool = False,
    logits: bool = False,
    label_order: LabelOrder = "official",
    submission: Path | None = None,
    format: Format = "server",
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = PLAIN,
    batch_size: int = 4,
    num_workers: int = 4,
) -> int:
    """Writes a mask STEM.png, with the classes 0..18 as values, for every picture STEM.jpg.

    Args:
        input: Pictures and folders of pictures.
        output: Folder to write to; may be left out with --submission.
        workdir: Folder of a run; its best weights are taken.
        exp: Experiment to take the settings from, with --weights; by default the file has them.
        weights: Weights of a network (.safetensors), in place of a run.
        overlay: Also write STEM_overlay.png, the picture under the mask's colours, with a legend.
        logits: Also write STEM.npy, float32 [h, w, 19] at the network's resolution.
        label_order: How the masks number the classes.
        submission: Zip of the masks to write, and check, for a challenge's server.
        format: Layout of that zip. `server`: masks in one folder; `codabench`: in a folder masks.
        batch_size: Pictures, or windows, at once.
        num_workers: Threads that read pictures, and as many that write.

    Returns 1 if a picture could not be read, else 0.
    """
    if logits and test_time.window:
        raise ValueError("--logits writes those of the whole picture; it goes without --window")
    if submission and label_order != "official":
        raise ValueError("a submission numbers the classes by the official order")
    if not (output or submission):
        raise ValueError("give --output FOLDER for the masks, or --submission FILE.zip")
    paths = list(dict.fromkeys(find_images(input)))
    if not paths:
        raise ValueError("--input names no picture; give pictures or folders of pictures")
    writers = make_writers(overlay, logits, label_order)
    with nullcontext(output) if output else TemporaryDirectory() as folder:
        require_free(paths, Path(folder), writers)
        config, *arrays = load_network(workdir, exp, weights)
        if not test_time.window:
            batch_size = min(batch_size, len(paths))
        config = replace(config, batch_size=batch_size, num_workers=num_workers)
        parser = Parser(config, *arrays, test_time)
        bad = write_masks(parser, paths, Path(folder), writers, num_workers)
        skipped = f", {bad} of {len(paths)} pictures skipped" if bad else ""
        if output:
            print(f"{len(paths) - bad} masks in {output}{skipped}")
        if submission:
            for warning in write_submission(Path(folder), paths, submission, format):
                print("warning:", warning, file=sys.stderr)
            print(f"wrote {submission}: {len(paths)} masks, checked")
    return 1 if bad else 0


def main() -> int:
    """Command line of `predict`."""
    use_compilation_cache()
    return tyro.cli(predict, prog="python -m jaxparse.predict")


if __name__ == "__main__":
    cli.run(main)
