"""Clips of drawn faces, written by PyAV."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.parsed import face

TICKS = Fraction(1, 12800)  # of a second
TIMES = (0, 512, 1024, 2000, 2512, 9000, 9001, 12800)  # unevenly spaced


def require_av() -> None:
    pytest.importorskip("av", reason="PyAV, of the extra video, is not installed")


def write_clip(
    path: Path, size: tuple[int, int] = (48, 64), times: Sequence[int] = TIMES, sound: bool = False
) -> Path:
    """A drawn face for each of the times; in H.264, or .mov as PNGs, which may be of odd sizes.

    With `sound` two seconds of a tone in AAC.
    """
    import av

    with av.open(str(path), "w") as container:
        lossless = path.suffix == ".mov"
        stream = container.add_stream("png" if lossless else "libx264", rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.codec_context.time_base = TICKS
        tone = container.add_stream("aac", rate=44100) if sound else None
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(face(index, size), format="rgb24")
            frame.pts, frame.time_base = time, TICKS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for start in range(0, 88200, 1024) if tone else ():
            wave = np.sin(np.arange(start, start + 1024) / 16).astype(np.float32)
            part = av.AudioFrame.from_ndarray(
                np.stack([wave, wave]), format="fltp", layout="stereo"
            )
            part.sample_rate, part.pts = 44100, start
            container.mux(tone.encode(part))
        container.mux(tone.encode() if tone else [])
    return path


def turn_clip(path: Path) -> None:
    """Has an MP4 shown turned by a quarter, clockwise: its track's matrix is (0 1 -1 0)."""
    data = path.read_bytes()
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0 of ISO/IEC 14496-12, 8.3.2
    assert struct.unpack_from(">9i", data, start)[::4] == (1 << 16, 1 << 16, 1 << 30)
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:start] + matrix + data[start + 36 :])


def read_clip(path: Path, layout: str = "rgb24") -> tuple[list[np.ndarray], list[Fraction]]:
    """The frames as stored, and their times in seconds; of `pal8` the indices."""
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
        pixels = [frame.to_ndarray(format=layout) for frame in frames]
        pixels = [each[0] if layout == "pal8" else each for each in pixels]
        return pixels, [frame.pts * frame.time_base for frame in frames]
