"""Clips of drawn faces, written by PyAV."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.parsed import face

TICKS = Fraction(1, 12800)  # of a second
TIMES = (0, 512, 1024, 2000, 2512, 9000, 9001, 12800)  # unevenly spaced


def require_av() -> None:
    pytest.importorskip("av", reason="PyAV, of the extra video, is not installed")


def write_clip(
    path: Path,
    size: tuple[int, int] = (48, 64),
    times: Sequence[int] = TIMES,
    sound: bool = False,
    codec: tuple[str, str] | None = None,
    picture: Callable[[int, tuple[int, int]], np.ndarray] = face,
    held: int = 0,
    **settings: int | Fraction,
) -> Path:
    """A drawn face for each of the times; in H.264, or .mov as PNGs, which may be of odd sizes.

    Or in another codec, with its layout of pixels. With `sound` two seconds of a tone in AAC. The
    last packet lasts `held` ticks; `settings` are of the encoder.
    """
    import av

    name, layout = codec or (("png", "rgb24") if path.suffix == ".mov" else ("libx264", "yuv420p"))
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(name, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = layout
        stream.codec_context.time_base = TICKS
        if (name, layout) == ("libvpx", "yuva420p"):
            stream.options = {"auto-alt-ref": "0"}  # else it refuses transparency
        for setting, value in settings.items():
            setattr(stream.codec_context, setting, value)
        tone = container.add_stream("aac", rate=44100) if sound else None
        for index, time in enumerate(times):
            pixels = picture(index, size)
            form = "rgba" if pixels.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(pixels, format=form)
            frame.pts, frame.time_base = time, TICKS
            container.mux(stream.encode(frame))
        last = stream.encode()
        if held:
            last[-1].duration = held
        container.mux(last)
        for start in range(0, 88200, 1024) if tone else ():
            wave = np.sin(np.arange(start, start + 1024) / 16).astype(np.float32)
            part = av.AudioFrame.from_ndarray(
                np.stack([wave, wave]), format="fltp", layout="stereo"
            )
            part.sample_rate, part.pts = 44100, start
            container.mux(tone.encode(part))
        container.mux(tone.encode() if tone else [])
    return path


def turn_clip(path: Path, matrix: tuple[int, int, int, int] = (0, 1, -1, 0)) -> None:
    """Has an MP4 shown by the matrix (a b c d) of its track: x' = a x + c y, y' = b x + d y.

    By default turned by a quarter, clockwise.
    """
    data = path.read_bytes()
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0 of ISO/IEC 14496-12, 8.3.2
    assert struct.unpack_from(">9i", data, start)[::4] == (1 << 16, 1 << 16, 1 << 30)
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    stored = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:start] + stored + data[start + 36 :])


def add_cover(path: Path) -> None:
    """Gives an MP4 a black cover as some taggers do: before its track, so that it comes first."""
    data = path.read_bytes()
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")

    def box(name: bytes, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return struct.pack(">I4s", len(content) + 8, name) + content

    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0), file.getvalue()))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    cover = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", cover)))
    moov, trak = data.index(b"moov") - 4, data.index(b"trak") - 4
    size = struct.unpack_from(">I", data, moov)[0] + len(cover)
    assert data.index(b"mdat") < moov  # else the places of the samples would move
    grown = struct.pack(">I", size) + data[moov + 4 : trak] + cover + data[trak:]
    path.write_bytes(data[:moov] + grown)


def read_clip(path: Path, layout: str = "rgb24") -> tuple[list[np.ndarray], list[Fraction]]:
    """The frames as stored, and their times in seconds; of `pal8` the indices."""
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
        pixels = [frame.to_ndarray(format=layout) for frame in frames]
        pixels = [each[0] if layout == "pal8" else each for each in pixels]
        return pixels, [frame.pts * frame.time_base for frame in frames]
