"""Clips as players show them; tests/parsing/test_clips.py has what is written of them."""

from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data.images import as_picture
from jaxparse.parsing.video import SUFFIXES, Clip
from tests.clips import add_cover, read_clip, require_av, turn_clip, write_clip
from tests.parsed import face
from tests.refusal import refuses

EVEN = range(0, 25600, 512)  # two seconds, 25 frames a second


@pytest.mark.parametrize("angle", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_all_eight_orientations(angle: int, mirrored: bool, tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mp4", times=(0, 512), sample_aspect_ratio=Fraction(4, 3))
    stored, _ = read_clip(path)
    a, b, c, d = ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))[angle]
    turn_clip(path, (-a, -b, c, d) if mirrored else (a, b, c, d))  # mirrored, then turned
    clip = Clip(path)
    for frame, wanted in zip(clip.frames(), stored, strict=True):
        wanted = np.rot90(wanted[:, ::-1] if mirrored else wanted, -angle)
        np.testing.assert_array_equal(frame.image, wanted)
    assert clip.pixel_aspect == (Fraction(3, 4) if angle % 2 else Fraction(4, 3))


@pytest.mark.parametrize(("degrees", "quarters"), [(20, 0), (70, 1), (-100, -1), (170, 2)])
def test_other_angles_are_the_nearest_quarter(degrees: int, quarters: int, tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mp4", times=(0,))
    stored, _ = read_clip(path)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn_clip(path, (cos, sin, -sin, cos))
    [frame] = Clip(path).frames()
    np.testing.assert_array_equal(frame.image, np.rot90(stored[0], -quarters))


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    require_av()
    import av

    path = write_clip(tmp_path / "clip.mp4", times=EVEN)
    stored, _ = read_clip(path)
    add_cover(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].width == 16  # the cover comes first
    frames = [frame.image for frame in Clip(path).frames()]
    np.testing.assert_array_equal(frames, stored)


@pytest.mark.parametrize(
    ("name", "times", "held"),
    [
        ("held.mp4", EVEN[:8], 3 * 12800),  # screen recordings: nothing moves
        ("held.mkv", EVEN[:8], 3 * 12800),
        ("late.mkv", [5 * 12800 + time for time in EVEN], 0),  # a part of a recording
        ("late.mp4", [5 * 12800 + time for time in EVEN], 0),
        ("late.webm", [5 * 12800 + time for time in EVEN], 0),
        ("slides.mkv", range(0, 40 * 12800, 5 * 12800), 5 * 12800),
        ("clip.ts", EVEN, 0),
        ("clip.mpg", EVEN, 0),
    ],
)
def test_whole_clips_are_read_to_their_end(
    name: str, times: list[int], held: int, tmp_path: Path
) -> None:
    require_av()
    codecs = {".webm": ("libvpx-vp9", "yuv420p"), ".mpg": ("mpeg2video", "yuv420p")}
    codec = codecs.get(Path(name).suffix)
    settings = {"time_base": Fraction(1, 25)} if name == "clip.mpg" else {}
    path = write_clip(tmp_path / name, times=times, held=held, codec=codec, **settings)
    frames = list(Clip(path).frames())
    assert len(frames) == len(times)
    for index in (0, len(times) - 1):
        difference = frames[index].image.astype(int) - face(index, (48, 64))
        assert np.abs(difference).mean() < 20  # of two faces some 50


def remuxed(path: Path, target: Path, **tags: str) -> Path:
    """A copy of the clip, the index of an MP4 at its front."""
    import av

    options = {"movflags": "faststart"}
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        copy.metadata.update(tags)
        for packet in source.demux(stream):
            if packet.dts is not None or packet.pts is not None:
                packet.stream = copy
                container.mux(packet)
    return target


@pytest.mark.parametrize(("first", "share"), [(0, 0.5), (5, 0.8)])
@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4", "cut.webm"])
def test_cut_clips_are_found(name: str, first: int, share: float, tmp_path: Path) -> None:
    """With the index at the front, or none, as much can be read as is there."""
    require_av()
    codec = ("libvpx", "yuv420p") if name.endswith("webm") else None
    times = [first * 12800 + time for time in range(0, 5 * 12800, 2560)]
    path = write_clip(tmp_path / f"whole_{name}", times=times, codec=codec)
    front = remuxed(path, tmp_path / name)
    assert len(list(Clip(front).frames())) == len(times)
    data = front.read_bytes()
    front.write_bytes(data[: int(len(data) * share)])
    with refuses(front, "copy it again"):
        list(Clip(front).frames())


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def test_mkvmerge_states_a_length_not_an_end(tmp_path: Path) -> None:
    require_av()
    times = [5 * 12800 + time for time in range(0, 5 * 12800, 2560)]
    path = write_clip(tmp_path / "whole.mkv", times=times)
    for tags, stated, share, missing in (
        ({}, b"00:00:09.840", 1, False),
        ({"_STATISTICS_WRITING_APP": "mkvmerge"}, b"00:00:04.840", 1, False),
        ({"_STATISTICS_WRITING_APP": "mkvmerge"}, b"00:00:04.840", 0.8, True),
    ):
        late = replaced(remuxed(path, tmp_path / "a.mkv", **tags), b"00:00:09.840", stated)
        late.write_bytes(late.read_bytes()[: int(late.stat().st_size * share)])
        clip = Clip(late)
        assert clip.seconds == pytest.approx(4.84)
        with refuses(late, "cut off") if missing else nullcontext():
            assert len(list(clip.frames())) == len(times)


def test_a_length_in_other_words_is_none(tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mkv", times=EVEN[:4])
    clip = Clip(replaced(path, b"00:00:00.160", b"about a tick"))
    assert clip.seconds is None and clip.expected is None
    assert len(list(clip.frames())) == 4


def test_titles_need_not_be_utf8(tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mp4", times=EVEN[:4])
    stored, _ = read_clip(path)
    clip = Clip(replaced(path, b"VideoHandler", "VidéoHandler".encode("latin-1")))
    np.testing.assert_array_equal([frame.image for frame in clip.frames()], stored)


def test_unknown_codecs(tmp_path: Path) -> None:
    """Of the video a line; without its sound a clip is read."""
    require_av()
    path = write_clip(tmp_path / "clip.mkv", times=EVEN[:4], sound=True)
    clip = Clip(replaced(path, b"A_AAC", b"A_ZZZ"))
    assert clip.sound is None and len(list(clip.frames())) == 4
    with refuses(path, "codec", "convert it"):
        Clip(replaced(path, b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/ZZZ"))


def transparent(index: int, size: tuple[int, int]) -> np.ndarray:
    """A drawn face whose left half is not seen and whose right half is seen in part."""
    alpha = np.full(size, 128, np.uint8)
    alpha[:, : size[1] // 2] = 0
    return np.dstack([face(index, size), alpha])


@pytest.mark.parametrize(
    ("name", "codec", "off"),
    [
        ("clip.mov", ("png", "rgba"), 0),
        ("clip.webm", ("libvpx-vp9", "yuva420p"), 9),
        ("old.webm", ("libvpx", "yuva420p"), 9),
        ("clip.mkv", ("ffv1", "yuva444p"), 2),
    ],
)
def test_transparency_is_laid_over_white(
    name: str, codec: tuple[str, str], off: int, tmp_path: Path
) -> None:
    require_av()
    path = write_clip(tmp_path / name, codec=codec, picture=transparent, times=EVEN[:3])
    for index, frame in enumerate(Clip(path).frames()):
        wanted = np.asarray(as_picture(Image.fromarray(transparent(index, (48, 64))))).astype(int)
        assert (np.abs(frame.image[:, :28] - 255) <= off).all()
        assert np.abs(frame.image - wanted).mean() <= off
    assert index == 2


@pytest.mark.parametrize(("transfer", "is_hdr"), [(16, True), (18, True), (1, False)])
def test_hdr_is_known(transfer: int, is_hdr: bool, tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mp4", times=(0, 512), color_trc=transfer, colorspace=9)
    clip = Clip(path)
    assert len(list(clip.frames())) == 2 and clip.is_hdr == is_hdr


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".3gp", "mpeg4"),
        (".ts", "libx264"),
        (".m2ts", "libx264"),
        (".mts", "libx264"),
        (".mpg", "mpeg2video"),
        (".vob", "mpeg2video"),
        (".wmv", "wmv2"),
        (".flv", "flv1"),
        (".f4v", "libx264"),
        (".ogv", "libtheora"),
    ],
)
def test_clips_of_phones_and_cameras(suffix: str, codec: str, tmp_path: Path) -> None:
    require_av()
    import av

    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    assert suffix in SUFFIXES
    path = write_clip(
        tmp_path / f"clip{suffix}",
        (144, 176),
        EVEN[:10],
        codec=(codec, "yuv420p"),
        time_base=Fraction(1, 25),
    )
    frames = list(Clip(path).frames())
    assert len(frames) == 10
    assert (
        np.abs(frames[9].image.astype(int) - face(9, (144, 176))).mean() < 20
    )  # of two faces some 50
