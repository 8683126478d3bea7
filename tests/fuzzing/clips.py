"""The kind of damaged clips."""

import random
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jaxparse.parsing.video import MISSING_END, Clip
from tests.clips import TICKS, write_clip
from tests.fuzzing.damage import BYTES, header_field
from tests.fuzzing.judge import Kind

FRAMES, RATE = 6, 2  # so that a frame is as long as may be missing
CODECS = {
    ".mp4": ("libx264", "yuv420p"),
    ".mov": ("png", "rgb24"),
    ".mkv": ("libx264", "yuv420p"),
    ".webm": ("libvpx", "yuv420p"),
    ".avi": ("mpeg4", "yuv420p"),
    ".ts": ("libx264", "yuv420p"),
}
WITH_SOUND = (".mkv", ".mov")
WITHOUT_LENGTH = (".ts",)  # a part of a broadcast is whole


@cache
def clip_files() -> dict[str, bytes]:
    times = [round(index / RATE / TICKS) for index in range(FRAMES)]
    rate = {"time_base": Fraction(1, RATE), "framerate": RATE}
    with TemporaryDirectory() as folder:
        paths = [
            write_clip(
                Path(folder, f"a{suffix}"), (32, 48), times, suffix in WITH_SOUND, codec, **rate
            )
            for suffix, codec in CODECS.items()
        ]
        return {path.name: path.read_bytes() for path in paths}


def any_field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A number anywhere: the sizes of boxes and the tables of an index are at no fixed place."""
    start = rng.randrange(len(data))
    return data[:start] + header_field(rng, data[start:], other)


def read_clip(path: Path) -> tuple[object, ...]:
    """All that commands take from a clip; asserts that one that is cut off is read to its end."""
    clip = Clip(path)
    about = clip.seconds, clip.expected, clip.sound, clip.rate
    frames = list(clip.frames())
    end = float(frames[-1].time * clip.time_base) + 1 / RATE
    whole, data = clip_files()[path.name], path.read_bytes()
    if whole.startswith(data.rstrip(b"\0")) and path.suffix not in WITHOUT_LENGTH:
        assert end >= FRAMES / RATE - MISSING_END, f"cut off after {end} s"
    times = [frame.time for frame in frames]
    return *about, clip.pixel_aspect, times, np.stack([frame.image for frame in frames])


def clips(folder: Path) -> Kind:
    """In the containers that phones, cameras and browsers write, two with sound."""
    return Kind(clip_files(), BYTES | {"any field": any_field}, read_clip)
