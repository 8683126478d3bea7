"""Clips through a Parser, frame by frame; threads decode, render and encode beside the network.

In memory are the frames that wait for a thread, some five for each, however long the clip is.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat, tee
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
from jax import Array

from jaxparse.files import atomic_path, read_ahead, results
from jaxparse.parsing.outputs import DESCRIPTION, Tracks
from jaxparse.parsing.parser import Parser
from jaxparse.parsing.results import NoFaceError, Parsing, Photograph, Picture
from jaxparse.parsing.video import SUFFIXES, Clip, Frame, library, writing_clip

LEAST = 1e-30  # below which a probability counts as this, to have a logarithm
TIMES = "times.txt"


def require_clip_flags(
    clips: Sequence[Path],
    frames: bool,
    smooth: float,
    submission: Path | None,
    **of_pictures: bool,
) -> None:
    """Raises ValueError if the flags do not fit clips, or there are none.

    `of_pictures` are flags whose files are written for pictures, and for frames.
    """
    if not 0 <= smooth < 1:
        raise ValueError(f"--smooth is {smooth}; give a share from 0 to below 1")
    if not clips and (frames or smooth):
        raise ValueError(f"--frames and --smooth are of clips ({', '.join(SUFFIXES)}); give one")
    if clips:
        library()
    if clips and submission:
        raise ValueError(f"--submission is of pictures, not of the clip {clips[0]}; leave it out")
    for flag, given in of_pictures.items():
        if clips and given and not frames:
            raise ValueError(
                f"--{flag} is of pictures, not of the clip {clips[0]}; leave it out, or give "
                "--frames, which writes a picture's files for every frame"
            )


def parse_clip(
    parser: Parser, clip: Clip, smooth: float, num_workers: int
) -> Iterator[tuple[Parsing, int]]:
    """The parsing of every frame, in order, and its time in `clip.time_base`.

    Raises ValueError as `Clip.frames` does, after the frames before the damage; at the end
    NoFaceError if faces were looked for and no frame has one.
    """
    frames, again = tee(_ahead(clip.frames()))

    def prepare(frame: Frame) -> Picture:
        return parser.prepare(frame.image)

    prepared = results(read_ahead(prepare, frames, num_workers))
    parsings = smoothed(parser.parse(prepared), smooth)
    faceless = True
    for parsing, frame in zip(parsings, again, strict=False):
        faceless = faceless and parsing.is_faceless
        yield parsing, frame.time
    if faceless:
        raise NoFaceError(f"no face is found in {clip.path}: it gets no mask")


def _ahead(frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames, read in a thread of their own."""
    for frame in results(read_ahead(lambda _: next(frames, None), repeat(None), 1)):
        if frame is None:
            return
        yield frame


def smoothed(parsings: Iterable[Parsing], share: float) -> Iterator[Parsing]:
    """Exponential smoothing over time: every frame's probabilities are `share` of those of the
    frame before, smoothed themselves, and the rest its own. Later frames are not looked at.

    At the network's resolution, for each scale and mirror image by itself.
    """
    before: list[Array] | None = None
    for parsing in parsings:
        if share:
            logits = [level.logits for level in parsing.levels]
            before = [jax.nn.softmax(each) for each in logits] if before is None else before
            before = [_mix(b, each, share) for b, each in zip(before, logits, strict=True)]
            parsing.levels = [
                level._replace(logits=jnp.log(jnp.maximum(each, LEAST)))
                for level, each in zip(parsing.levels, before, strict=True)
            ]
        yield parsing


@jax.jit
def _mix(before: Array, logits: Array, share: float) -> Array:
    """Probabilities [..., C]."""
    return share * before + (1 - share) * jax.nn.softmax(logits)


def write_tracks(
    parser: Parser, clip: Clip, stem: Path, outputs: Tracks, smooth: float, num_workers: int
) -> Iterator[Parsing]:
    """Writes the clip's files, named by `stem` and the keys of `outputs`; yields every parsing.

    They get their names at the end, all or, if the clip is damaged, none. Raises ValueError.
    """
    described = []
    with ExitStack() as stack:
        writers = {
            ending: stack.enter_context(
                writing_clip(stem.with_name(stem.name + ending), kind, clip)
            )
            for ending, (kind, _) in outputs.items()
        }

        def render(item: tuple[Parsing, int]) -> tuple[Parsing, int, list]:
            parsing, time = item
            return *item, [(writers[end], pixels(parsing)) for end, (_, pixels) in outputs.items()]

        def encode(rendered: tuple[Parsing, int, list]) -> Parsing:
            parsing, time, tracks = rendered
            for write, pixels in tracks:
                write(pixels, time)
            if isinstance(parsing, Photograph):
                seconds = round(float(time * clip.time_base), 6)
                described.append({"time": seconds, **parsing.describe()})
            return parsing

        parsings = parse_clip(parser, clip, smooth, num_workers)
        rendered = results(read_ahead(render, parsings, num_workers))
        yield from results(read_ahead(encode, rendered, 1))
        if described:
            description = stem.with_name(stem.name + DESCRIPTION)
            with atomic_path(description) as temporary:
                temporary.write_text(json.dumps({"frames": described}) + "\n")


def write_frames(
    parser: Parser,
    clip: Clip,
    folder: Path,
    outputs: Mapping[str, Callable[[Path, Parsing], None]],
    smooth: float,
    num_workers: int,
) -> Iterator[Parsing]:
    """Writes the files of every frame, 000000.png and on, and their times; yields every parsing.

    The folder gets its name at the end. Raises ValueError if it exists, and for a damaged clip.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; remove it, or give another --output")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()

        def write(numbered: tuple[int, tuple[Parsing, int]]) -> tuple[Parsing, int]:
            number, (parsing, _) = numbered
            for ending, writer in outputs.items():
                writer(made / f"{number:06}{ending}", parsing)
            return numbered[1]

        parsings = enumerate(parse_clip(parser, clip, smooth, num_workers))
        # Matroska's text format of times, in milliseconds, which mkvmerge reads.
        lines = ["# timestamp format v2"]
        for parsing, time in results(read_ahead(write, parsings, num_workers)):
            lines.append(f"{float(1000 * time * clip.time_base):.3f}")
            yield parsing
        (made / TIMES).write_text("\n".join(lines) + "\n")
        os.rename(made, folder)
