"""Clips on disk, by PyAV (the extra `video`): frames as they are shown, in RGB, with their times.

Written as PNGs in QuickTime (.mov), without loss: masks as indices with their palette, regions in
grey, cut-outs with alpha. For eyes alone as H.264 in .mp4, which would mix classes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from math import inf
from pathlib import Path
from re import fullmatch
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from jaxparse.data.images import as_picture, is_animated, unreadable
from jaxparse.files import atomic_path, unusable

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".3gp", ".3g2", ".qt", ".f4v", ".flv")
SUFFIXES += (".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".m2v", ".vob")
SUFFIXES += (".wmv", ".asf", ".ogv", ".mxf")
ANIMATED = (".gif", ".png", ".apng")  # of the animated pictures those that FFmpeg reads
MP4_SOUND = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")  # copied as it is
MISSING_END = 0.5  # seconds of a clip's length that may have no frame, before it counts as cut off
BT709 = 1  # H.273: the colours of high definition
HDR = (16, 18)  # H.273: PQ and HLG
# FFmpeg's own decoders of these leave out the transparency.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

# In the layout of `Kind.pixels`; palettes go with their indices: (uint8 [H, W], uint8 [256, 4]).
Pixels: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray]
Write: TypeAlias = Callable[[Pixels, int], None]


class Kind(NamedTuple):
    """How a clip is written."""

    suffix: str
    codec: str
    pixels: str  # FFmpeg's name of their layout


MASK = Kind(".mov", "png", "pal8")
GREY = Kind(".mov", "png", "gray")
ALPHA = Kind(".mov", "png", "rgba")
H264 = Kind(".mp4", "libx264", "rgb24")


class Frame(NamedTuple):
    """A frame as it is shown: uint8 [H, W, 3], and when, in the clip's `time_base`."""

    image: np.ndarray
    time: int


def library() -> ModuleType:
    """PyAV. Raises ValueError with the command that installs it."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"clips need PyAV: {unusable('av', 'video', error)}") from error
    return av


def is_clip(path: Path) -> bool:
    """Whether the file is one by its suffix, or an animated picture that PyAV can read."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in ANIMATED and is_animated(path))


def _unreadable(path: Path, error: Exception, frames: int = 0) -> ValueError:
    if frames or not isinstance(error, OSError):
        where = f" after {frames} frames" if frames else ""
        error = ValueError(f"{getattr(error, 'strerror', error)}{where}")
    return ValueError(unreadable("clip", path, error))


class Clip:
    """The first video track of a file, covers and thumbnails aside, to be read once.

    Raises ValueError if it has none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        av = library()
        try:
            # Titles need not be UTF-8: old AVIs have them in Latin-1.
            self._container = av.open(str(path), metadata_errors="replace")
        except av.FFmpegError as error:
            raise _unreadable(path, error) from error
        streams = self._container.streams
        stills = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        videos = [each for each in streams.video if not each.disposition & stills]
        if not videos:
            raise _unreadable(path, ValueError("it has no video"))
        self._stream = videos[0]
        if self._stream.codec_context is None:
            raise ValueError(
                f"clip {path} is damaged, or in a codec that PyAV cannot read: "
                "copy it again, or convert it to H.264 in .mp4"
            )
        self._stream.thread_type = "AUTO"
        self.time_base: Fraction = self._stream.time_base
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        sounds = [each.codec_context for each in streams.audio[:1] if each.codec_context]
        self.sound: str | None = sounds[0].name if sounds else None
        self.pixel_aspect: Fraction = self._stream.sample_aspect_ratio or Fraction(1)
        self.is_hdr = False  # known, as is how the pixels are turned, from the first frame on

    @property
    def seconds(self) -> float | None:
        """The track's length, as the file states it."""
        if self._stream.duration:
            return float(self._stream.duration * self.time_base)
        tags = self._stream.metadata
        # Of Matroska: 00:01:02.500; free text in other files.
        if stated := fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", tags.get("DURATION", "")):
            hours, minutes, seconds = map(float, stated.groups())
            end = 3600 * hours + 60 * minutes + seconds
            # FFmpeg states the time of the end, mkvmerge, which leaves that tag, the length.
            return end if "_STATISTICS_WRITING_APP" in tags else end - float(self._start)
        return None

    @property
    def _start(self) -> Fraction:
        """The time of the first frame in seconds, as the file states it."""
        return (self._stream.start_time or 0) * self.time_base

    @property
    def expected(self) -> int | None:
        """About how many frames there are, if the file says so."""
        return self._stream.frames or (round(self.seconds * self.rate) if self.seconds else None)

    def frames(self) -> Iterator[Frame]:
        """Every frame, with ascending times. Raises ValueError if the clip is damaged or cut off.

        Or if its pictures change their size.
        """
        number, time, end, size = 0, -1, 0, None
        try:
            for frame in self._decoded():
                if frame.is_corrupt:
                    raise ValueError("damaged frame")
                start = round(number / self.rate / self.time_base)
                time = max(time + 1, start if frame.pts is None else frame.pts)
                end = max(end, time + (frame.duration or 0))
                image = self._shown(frame, is_first=not number)
                size = size or image.shape
                if image.shape != size:
                    raise ValueError("the pictures change their size")
                yield Frame(image, time)
                number += 1
            self._require_end(
                number, max(end * self.time_base, time * self.time_base + 1 / self.rate)
            )
        except (ValueError, OSError, library().FFmpegError) as error:
            raise _unreadable(self.path, error, number) from error
        finally:
            self._container.close()

    def _decoded(self) -> Iterator[Any]:
        """PyAV's frames."""
        codec = self._stream.codec_context.name
        if self._stream.metadata.get("alpha_mode") != "1" or codec not in ALPHA_DECODERS:
            return self._container.decode(self._stream)
        decoder = library().CodecContext.create(ALPHA_DECODERS[codec], "r")
        packets = self._container.demux(self._stream)
        return (frame for packet in packets for frame in decoder.decode(packet))

    def _shown(self, frame: Any, is_first: bool) -> np.ndarray:  # noqa: ANN401
        """uint8 [H, W, 3] as players show it, transparent parts over white."""
        exchanged, down, across = _orientation(frame)
        if is_first:
            self.is_hdr = self._stream.codec_context.color_trc in HDR
            self.pixel_aspect = 1 / self.pixel_aspect if exchanged else self.pixel_aspect
        if frame.format.has_palette or any(each.is_alpha for each in frame.format.components):
            image = np.asarray(as_picture(Image.fromarray(frame.to_ndarray(format="rgba"))))
        else:
            image = frame.to_ndarray(format="rgb24")
        image = image.swapaxes(0, 1) if exchanged else image
        return np.ascontiguousarray(image[::down, ::across])

    def _require_end(self, number: int, end: Fraction) -> None:
        if not number:
            raise ValueError("it has no frames")
        missing = (self.seconds or 0) - (end - self._start)
        if missing > MISSING_END:
            raise ValueError(f"cut off, {missing:.1f} seconds before its end")


def _orientation(frame: Any) -> tuple[bool, int, int]:  # noqa: ANN401
    """Whether rows and columns are to be exchanged, then the steps (1, -1) down and across.

    Of the display matrix, ISO/IEC 14496-12, 8.2.2: x' = a x + c y, y' = b x + d y. Angles between
    quarter turns count as the nearest.
    """
    if "DISPLAYMATRIX" not in frame.side_data:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32)[:5].tolist()
    exchanged = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if exchanged else (a, d)
    return exchanged, -1 if down < 0 else 1, -1 if across < 0 else 1


class _Sound:
    """The first sound track of a clip, copied into another file as it is, packet by packet."""

    def __init__(self, clip: Clip, container: Any) -> None:  # noqa: ANN401
        self._container = container
        self._source = library().open(str(clip.path), metadata_errors="replace")
        stream = self._source.streams.audio[0]
        self._track = container.add_stream_from_template(stream)
        self._packets = (each for each in self._source.demux(stream) if each.dts is not None)
        self._next = next(self._packets, None)

    def copy(self, until: Fraction | float) -> None:
        """The packets of the first `until` seconds that are not yet copied."""
        while self._next and self._next.dts * self._next.time_base < until:
            self._next.stream = self._track
            self._container.mux(self._next)
            self._next = next(self._packets, None)

    def close(self) -> None:
        self._source.close()


@contextmanager
def writing_clip(path: Path, kind: Kind, clip: Clip) -> Iterator[Write]:
    """A function that appends (pixels, time in `clip.time_base`) to the file.

    The file has its name once it is complete. H.264 gets the sound of `clip`, if .mp4 can hold it.
    """
    av = library()
    if kind.codec not in av.codecs_available:
        raise ValueError(f"this PyAV cannot write {kind.codec}: install its wheel from PyPI")
    encode = _encode_h264 if kind is H264 else _encode_png
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(path))
        container = stack.enter_context(av.open(str(temporary), "w"))
        stream = container.add_stream(kind.codec, rate=clip.rate)
        sound = None
        if kind is H264 and clip.sound in MP4_SOUND:
            sound = stack.enter_context(closing(_Sound(clip, container)))

        def write(pixels: Pixels, time: int) -> None:
            if not stream.codec_context.is_open:
                _set_up(stream, pixels, kind, clip)
            frame = encode(av, pixels, kind.pixels)
            frame.pts, frame.time_base = time, clip.time_base
            container.mux(stream.encode(frame))
            if sound:
                sound.copy(time * clip.time_base)

        yield write
        container.mux(stream.encode())
        if sound:
            sound.copy(inf)


def _set_up(stream: Any, pixels: Pixels, kind: Kind, clip: Clip) -> None:  # noqa: ANN401
    height, width = (pixels[0] if isinstance(pixels, tuple) else pixels).shape[:2]
    context = stream.codec_context
    context.time_base = clip.time_base
    context.sample_aspect_ratio = clip.pixel_aspect
    if kind is H264:  # at half the resolution of colours, so sides are even
        height, width = height + height % 2, width + width % 2
        context.pix_fmt = "yuv420p"
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = (
            BT709
        )
    else:
        context.pix_fmt = kind.pixels
        context.options = {"compression_level": "1"}  # a third of the time, a tenth more bytes
    context.width, context.height = width, height


def _encode_png(av: ModuleType, pixels: Pixels, layout: str) -> Any:  # noqa: ANN401
    return av.VideoFrame.from_ndarray(pixels, format=layout)


def _encode_h264(av: ModuleType, pixels: np.ndarray, layout: str) -> Any:  # noqa: ANN401
    height, width = pixels.shape[:2]
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(even, format=layout)
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709")
