import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data.masks import read_label
from jaxparse.parsing.clips import smoothed, write_frames, write_tracks
from jaxparse.parsing.outputs import make_tracks, region_renders, write_png
from jaxparse.parsing.overlay import blend
from jaxparse.parsing.parser import Parser
from jaxparse.parsing.regions import Edge, Region
from jaxparse.parsing.video import Clip
from tests.clips import TICKS, TIMES, read_clip, require_av, turn_clip, write_clip
from tests.conftest import Nano
from tests.parsed import face, require_highest, resized, share_program, softmax
from tests.refusal import refuses


@pytest.fixture
def parser(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Parser:
    share_program(monkeypatch, nano)
    return Parser(nano.config, nano.params, nano.batch_stats)


def written(parser: Parser, path: Path, stem: Path, **outputs: object) -> int:
    """The number of frames of which files were written."""
    tracks = make_tracks(**({"opacity": None, "renders": {}} | outputs))
    return sum(1 for _ in write_tracks(parser, Clip(path), stem, tracks, 0, 2))


def test_the_masks_of_a_clip_are_those_of_its_frames(parser: Parser, tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mp4", sound=True)
    renders = region_renders([Region("face", ("skin", "nose"))], Edge(grow=1), cutout=True)
    stem = tmp_path / "out" / "clip"
    assert written(parser, path, stem, opacity=0.4, renders=renders) == len(TIMES)
    names = {f"clip{end}" for end in (".mov", "_overlay.mp4", "_face.mov", "_face_cutout.mov")}
    assert {file.name for file in stem.parent.iterdir()} == names
    frames, times = read_clip(path)
    assert times == [time * TICKS for time in TIMES]
    tracks = [read_clip(stem.parent / name) for name in sorted(names)]
    assert all(each == times for _, each in tracks)
    regions, _ = read_clip(stem.with_name("clip_face.mov"), "gray")
    cutouts, _ = read_clip(stem.with_name("clip_face_cutout.mov"), "rgba")
    masks, _ = read_clip(stem.with_name("clip.mov"), "pal8")
    coloured, _ = read_clip(stem.with_name("clip.mov"))
    blended, _ = read_clip(stem.with_name("clip_overlay.mp4"))
    for index, result in enumerate(parser(frames)):
        np.testing.assert_array_equal(masks[index], result.mask)
        np.testing.assert_array_equal(coloured[index], result.classes.palette[result.mask])
        np.testing.assert_array_equal(regions[index], result.region(("skin", "nose"), grow=1))
        np.testing.assert_array_equal(cutouts[index], np.dstack([frames[index], regions[index]]))
        wanted = blend(frames[index], result.mask, result.classes).astype(float)
        assert np.abs(blended[index].mean((0, 1)) - wanted.mean((0, 1))).max() < 4


def test_the_overlay_keeps_the_sound(parser: Parser, tmp_path: Path) -> None:
    require_av()
    import av

    path = write_clip(tmp_path / "clip.mp4", sound=True)
    path.write_bytes(path.read_bytes().replace(b"SoundHandler", b"S\xf6undHandler"))  # in Latin-1
    assert written(parser, path, tmp_path / "out" / "clip", opacity=0.4) == len(TIMES)
    packets = []
    for file in (path, tmp_path / "out" / "clip_overlay.mp4"):
        with av.open(str(file), metadata_errors="replace") as container:
            demuxed = container.demux(container.streams.audio[0])
            packets.append([(p.pts * p.time_base, bytes(p)) for p in demuxed if p.dts is not None])
    assert packets[0] == packets[1] and len(packets[0]) > 80


def test_clips_are_upright(parser: Parser, tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mp4", (48, 64))
    upright = [np.rot90(frame, -1) for frame in read_clip(path)[0]]
    turn_clip(path)
    for frame, wanted in zip(Clip(path).frames(), upright, strict=True):
        np.testing.assert_array_equal(frame.image, wanted)
    written(parser, path, tmp_path / "out" / "clip")
    masks, _ = read_clip(tmp_path / "out" / "clip.mov", "pal8")
    np.testing.assert_array_equal(masks[0], parser(np.ascontiguousarray(upright[0])).mask)


def test_clips_of_odd_sizes(parser: Parser, tmp_path: Path) -> None:
    require_av()
    path = write_clip(tmp_path / "clip.mov", (31, 45))
    written(parser, path, tmp_path / "out" / "clip", opacity=0.4)
    masks, _ = read_clip(tmp_path / "out" / "clip.mov", "pal8")
    np.testing.assert_array_equal(masks[0], parser(face(0, (31, 45))).mask)
    blended, _ = read_clip(tmp_path / "out" / "clip_overlay.mp4")
    assert blended[0].shape == (32, 46, 3)  # H.264 has even sides: the border is repeated


def test_frames_are_files_with_their_times(parser: Parser, tmp_path: Path) -> None:
    require_av()
    path, folder = write_clip(tmp_path / "clip.mp4"), tmp_path / "out" / "clip"
    writers = {
        ".png": lambda file, parsing: parsing.save(file),
        "_hair.png": lambda file, parsing: write_png(file, parsing, lambda p: p.region(["hair"])),
    }
    assert sum(1 for _ in write_frames(parser, Clip(path), folder, writers, 0, 2)) == len(TIMES)
    assert len(list(folder.iterdir())) == 2 * len(TIMES) + 1
    for index, result in enumerate(parser(read_clip(path)[0])):
        np.testing.assert_array_equal(read_label(folder / f"{index:06}.png"), result.mask)
        hair = np.asarray(Image.open(folder / f"{index:06}_hair.png"))
        np.testing.assert_array_equal(hair, result.region(["hair"]))
    lines = (folder / "times.txt").read_text().splitlines()
    assert lines[1:] == [f"{time / 12.8:.3f}" for time in TIMES]
    assert [file.name for file in folder.parent.iterdir()] == ["clip"]
    with refuses(folder, "remove it"):
        next(write_frames(parser, Clip(path), folder, writers, 0, 2))


def test_probabilities_are_smoothed_over_time(parser: Parser, nano: Nano) -> None:
    images = [face(index, (64, 64)) for index in range(4)]
    share, mean = 0.6, None
    logits = np.asarray(nano.network(np.stack(images)), np.float64)
    parsings = smoothed(parser.parse(map(parser.prepare, images)), share)
    for result, own in zip(parsings, softmax(logits), strict=True):
        mean = own if mean is None else share * mean + (1 - share) * own
        require_highest(result.mask, resized(np.log(mean), (64, 64)))
        wanted = softmax(resized(np.log(mean), (64, 64)))[..., 1]
        np.testing.assert_allclose(result.probability("skin"), wanted, atol=2e-5)


def damaged(path: Path, how: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(how(path.read_bytes()))
    return path


def test_damaged_clips_leave_no_files(parser: Parser, tmp_path: Path) -> None:
    require_av()
    out = tmp_path / "out" / "clip"
    # FFmpeg's Matroska ends without an error where the file does.
    for name, how in {
        "half.mp4": lambda data: data[: len(data) // 2],
        "half.mkv": lambda data: data[: len(data) // 2],
        "junk.mp4": lambda data: b"x" * 1000,
        "empty.mp4": lambda data: b"",
    }.items():
        path = damaged(write_clip(tmp_path / name, times=range(0, 25600, 1280)), how)
        with refuses("clip", path, "copy it again or remove it"):
            written(parser, path, out, opacity=0.4)
        assert not list(out.parent.iterdir()) if out.parent.exists() else True
    with refuses(tmp_path / "none.mp4"):
        Clip(tmp_path / "none.mp4")


def test_without_pyav_its_command_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with refuses("PyAV", 'pip install "jaxparse[video]"'):
        Clip(tmp_path / "clip.mp4")
