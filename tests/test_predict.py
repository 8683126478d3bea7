import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import cli, predict
from jaxparse.classes import CELEBAMASK, Classes, load_classes
from jaxparse.data.masks import read_label
from jaxparse.parsing import results
from jaxparse.parsing.outputs import files_of, require_free
from jaxparse.parsing.overlay import blend
from jaxparse.parsing.parser import Parser, TestTime
from jaxparse.parsing.regions import grow
from jaxparse.parsing.video import Clip
from jaxparse.scoring.submissions import inspect_submission
from tests.clips import TIMES, read_clip, require_av, write_clip
from tests.conftest import Nano
from tests.parsed import draw, face, require_highest, resized, share_program
from tests.refusal import refuses


@pytest.fixture
def command(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line; all runs share one compiled network."""
    share_program(monkeypatch, nano)

    def run(*flags: object) -> int:
        flags = ("--exp", nano.experiment, "--weights", nano.weights, *flags)
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, flags)])
        with pytest.raises(SystemExit) as caught:
            cli.run(predict.main)
        return caught.value.code

    return run


def test_masks_and_logits_of_all_kinds_of_pictures(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"odd": (37, 91), "wide": (40, 300), "face": (64, 64), "tall": (120, 50), "dot": (1, 1)}
    photos, output = tmp_path / "photos", tmp_path / "masks"
    for index, (name, size) in enumerate(sizes.items()):
        draw(photos / f"{name}.png", index, size)
    turned = Image.open(draw(tmp_path / "upright.png", 9, (80, 60)))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90°: stored lying, seen upright
    turned.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    sizes |= {"upright": (80, 60), "turned": (80, 60)}
    inputs = (photos, tmp_path / "upright.png", tmp_path / "turned.png")
    assert command("--input", *inputs, "--output", output, "--logits") == 0
    assert f"7 masks in {output}" in capsys.readouterr().out
    seen = set()
    for name, size in sizes.items():
        mask, logits = Image.open(output / f"{name}.png"), np.load(output / f"{name}.npy")
        label = np.asarray(mask)
        assert mask.mode == "P" and label.shape == size
        assert logits.shape == (16, 16, 19) and logits.dtype == np.float32
        require_highest(label, resized(logits, size))
        seen |= set(np.unique(label).tolist())
    assert len(seen) >= 4  # a network that gives varied masks
    assert len(list(output.iterdir())) == 2 * len(sizes)
    np.testing.assert_array_equal(*(Image.open(output / f"{n}.png") for n in ("upright", "turned")))


def test_a_picture_has_the_same_logits_in_any_batch(
    command: Callable[..., int], nano: Nano, tmp_path: Path
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (64, 64)) for i in range(5)]
    assert command("--input", *paths, "--output", tmp_path / "out", "--logits") == 0
    for path in paths:
        image = np.asarray(Image.open(path))
        expected = nano.network(np.stack([image] * 4))[0]
        written = np.load(tmp_path / "out" / f"{path.stem}.npy")
        np.testing.assert_allclose(written, expected, atol=1e-4)


def test_bad_files_are_reported_and_skipped(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for index in range(5):
        draw(folder / f"{index}.png", index, (64, 64))
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:2000])
    (folder / "6.jpg").write_text("no picture")
    assert command("--input", folder, "--output", output) == 1
    assert sorted(path.name for path in output.iterdir()) == ["0.png", "2.png", "3.png", "4.png"]
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if str(folder) in line]
    doubts = [line for line in lines if "--faces" in line]  # an untrained network's masks
    bad = [line for line in lines if line not in doubts]
    assert len(bad) == 2 and len(doubts) <= 4
    assert str(folder / "1.png") in bad[0] and str(folder / "6.jpg") in bad[1]
    assert printed.out.strip() == f"4 masks in {output}, 2 of 6 skipped"


def test_overlay_is_written_beside_the_mask(command: Callable[..., int], tmp_path: Path) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (50, 70)) for i in range(4)]
    assert command("--input", tmp_path / "in", "--output", tmp_path / "out", "--overlay") == 0
    for path in paths:
        mask = np.asarray(Image.open(tmp_path / "out" / path.name))
        overlay = np.asarray(Image.open(tmp_path / "out" / f"{path.stem}_overlay.png"))
        np.testing.assert_array_equal(
            overlay[:50, :70], blend(np.asarray(Image.open(path)), mask, CELEBAMASK)
        )
        assert overlay.shape[1] > 70


def planned(paths: list[Path], output: Path, endings: list[str]) -> dict[Path, list[Path]]:
    return files_of({path: output / path.stem for path in paths}, endings)


def test_equal_stems_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png"]
    with refuses(paths[0], paths[1], "x.png"):
        require_free(planned(paths, tmp_path / "out", [".png"]))


def test_the_overlay_of_one_and_the_mask_of_another_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "x.jpg", tmp_path / "x_overlay.jpg"]
    require_free(planned(paths, tmp_path / "out", [".png"]))
    with refuses("x_overlay.png"):
        require_free(planned(paths, tmp_path / "out", [".png", "_overlay.png"]))


def test_the_folder_of_an_input_is_no_output(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = draw(tmp_path / "in" / "face.png", 0, (8, 8))
    before = path.read_bytes()
    linked = tmp_path / "links" / "face.png"
    linked.parent.mkdir()
    linked.symlink_to(path)
    for source in (path, path.parent, linked):
        output = tmp_path / "x" / ".." / "in"
        assert command("--input", source, "--output", output) == 1
        error = capsys.readouterr().err
        assert f"--output {output}" in error and path.name in error
    assert path.read_bytes() == before
    require_free(planned([path], path.parent / "masks", [".png"]))  # a folder in it is allowed


def test_files_given_twice_are_predicted_once(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (8, 8)) for i in range(4)]
    assert command("--input", paths[1], tmp_path / "in", "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("4 masks in ")


def test_no_input_is_one_line(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nothing"
    assert command("--input", missing, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(missing) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", 0], ["batch_size is 0", "at least 1"]),
        (["--num-workers", 0], ["num_workers is 0", "at least 1"]),
        (["--submission", "x.zip", "--classes", "facer"], ["--submission", "--classes"]),
        (["--submission", "x.tar"], ["--submission", "x.tar", ".zip"]),
        (["--output", "o", "--size-limit", "0"], ["--size-limit", "0"]),
        (["--output", "o", "--size-limit", "nan"], ["--size-limit", "nan"]),
        (["--output", "o", "--hard"], ["--hard", "--region"]),
        (["--output", "o", "--cutout"], ["--cutout", "--region"]),
        (["--overlay", "--opacity", "1.5"], ["--opacity", "1.5", "0 to 1"]),
        (["--opacity", "0.5"], ["--opacity", "--overlay"]),
        (["--output", "o", "--region", "beard"], ["beard", "background, skin"]),
        (["--output", "o", "--region", "hair", "--region", "skin=hair"], ["--region", "hair"]),
        (["--output", "o", "--smooth", "0.5"], ["--smooth", ".mp4"]),
        (["--output", "o", "--smooth", "1"], ["--smooth is 1", "below 1"]),
        (["--output", "o", "--frames"], ["--frames", ".mp4"]),
        (["--submission", "x.zip", "--recursive"], ["--submission", "--recursive"]),
        (["--workdir", "runs/x"], ["runs/x"]),
    ],
)
def test_bad_flags_are_one_line(
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list,
    words: list[str],
) -> None:
    path = draw(tmp_path / "in" / "face.png", 0, (8, 8))
    assert command("--input", path, "--output", tmp_path / "out", *flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in words)


def test_flip_and_classes_reach_the_masks(
    command: Callable[..., int], nano: Nano, tmp_path: Path
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (50, 70)) for i in range(4)]
    flags = ("--input", tmp_path / "in", "--flip", "--classes", "zllrunning")
    assert command(*flags, "--output", tmp_path / "out") == 0
    arrays = nano.params, nano.batch_stats
    flipping = Parser(nano.config, *arrays, TestTime(flip=True))
    for path, result in zip(paths, flipping(paths), strict=True):
        written = read_label(tmp_path / "out" / path.name, labels_are=load_classes("zllrunning"))
        np.testing.assert_array_equal(written, result.mask)
    indices = np.asarray(Image.open(tmp_path / "out" / path.name))
    assert (indices != result.mask).any()
    colours = np.asarray(Image.open(tmp_path / "out" / path.name).convert("RGB"))
    np.testing.assert_array_equal(colours, CELEBAMASK.palette[result.mask])  # whatever the order


def test_submission_is_written_and_checked(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (512, 512)) for i in range(4)]
    zipped = tmp_path / "out" / "test_mask.zip"
    assert command("--input", tmp_path / "in", "--submission", zipped) == 0
    assert capsys.readouterr().out == f"wrote {zipped}: 4 masks, checked\n"
    assert inspect_submission(zipped, paths, "server").faults == []
    flags = ("--output", tmp_path / "masks", "--submission", zipped, "--format", "codabench")
    assert command("--input", tmp_path / "in", *flags) == 0
    assert inspect_submission(zipped, paths, "codabench").faults == []
    content = zipped.read_bytes()
    draw(paths[2], 2, (64, 64))
    assert command("--input", tmp_path / "in", "--submission", zipped) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert all(word in error for word in (str(paths[2]), "1 of 4", "64x64", "512x512"))
    assert zipped.read_bytes() == content  # the one before is kept


def test_regions_are_written_beside_the_mask(
    command: Callable[..., int], nano: Nano, tmp_path: Path
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (50, 70)) for i in range(4)]
    flags = ("--region", "hair", "--region", "skin,nose=face", "--cutout", "--feather", 2)
    output = tmp_path / "out"
    assert command("--input", tmp_path / "in", *flags, "--output", output) == 0
    assert len(list(output.iterdir())) == 4 * 5
    parser = Parser(nano.config, nano.params, nano.batch_stats)
    for path, result in zip(paths, parser(paths), strict=True):
        for name, classes in (("hair", ["hair"]), ("face", ["skin", "nose"])):
            region = Image.open(output / f"{path.stem}_{name}.png")
            assert region.mode == "L"
            np.testing.assert_array_equal(region, result.region(classes, feather=2))
            cut = np.asarray(Image.open(output / f"{path.stem}_{name}_cutout.png"))
            np.testing.assert_array_equal(cut[..., :3], Image.open(path))
            np.testing.assert_array_equal(cut[..., 3], region)
    flags = ("--region", "skin", "--hard", "--grow", -1)
    assert command("--input", tmp_path / "in", *flags, "--output", output) == 0
    region = np.asarray(Image.open(output / f"{path.stem}_skin.png"))
    np.testing.assert_array_equal(region, grow(255 * (result.mask == 1).astype(np.uint8), -1))


def test_sub_folders_are_kept_and_existing_files_skipped(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = tmp_path / "in"
    names = {f"{place}{name}.png" for place in ("", "a/", "a/b/", "c/") for name in "xy"}
    for name in names:
        draw(top / name, 0, (8, 8))
    (top / "a" / "notes.txt").write_text("")
    output = top / "masks"  # what is written there is not taken for pictures
    flags = ("--input", top, "--output", output, "--recursive")
    for _ in range(2):
        assert command(*flags) == 0
        out = capsys.readouterr().out
        assert out == f"8 masks in {output}\nnot taken for pictures: 1 (notes.txt)\n"
    assert {str(file.relative_to(output)) for file in output.rglob("*.png")} == names
    for name in ("y.png", "a/x.png", "a/b/x.png", "c/x.png"):
        (output / name).unlink()
    kept = (output / "x.png").stat().st_mtime_ns
    assert command(*flags, "--skip-existing") == 0
    assert capsys.readouterr().out.startswith(f"4 masks in {output}, 4 were there\n")
    assert (output / "x.png").stat().st_mtime_ns == kept
    assert command(*flags, "--skip-existing") == 0
    assert capsys.readouterr().out.startswith(f"0 masks in {output}, 8 were there\n")
    assert command(*flags, "--skip-existing", "--overlay") == 0  # not all wanted files are there
    assert capsys.readouterr().out.startswith(f"8 masks in {output}\n")


def test_clips_and_pictures_together(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_av()
    folder, output = tmp_path / "in", tmp_path / "out"
    paths = [draw(folder / f"{i}.png", i, (50, 70)) for i in range(4)]
    clip, bad = write_clip(folder / "clip.mp4"), folder / "bad.mp4"
    bad.write_bytes(clip.read_bytes()[:500])
    inputs = ("--input", *paths, clip, bad, "--output", output)
    assert command(*inputs, "--smooth", 0.5) == 1
    printed = capsys.readouterr()
    assert f"{clip}: {len(TIMES)} frames" in printed.out
    assert f"5 masks in {output}, 1 of 6 skipped" in printed.out
    assert str(bad) in printed.err
    names = {file.name for file in output.iterdir()}
    assert names == {"0.png", "1.png", "2.png", "3.png", "clip.mov"}
    assert command("--input", clip, "--output", output, "--frames", "--overlay") == 0
    assert len(list((output / "clip").iterdir())) == 2 * len(TIMES) + 1
    capsys.readouterr()
    for flags, words in (
        (["--logits"], ["--logits", "--frames", clip]),
        (["--submission", tmp_path / "x.zip"], ["--submission", clip]),
    ):
        assert command("--input", clip, "--output", output, *flags) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and all(str(word) in error for word in words)


def test_animated_pictures_are_clips_and_other_files_are_named(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_av()
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    frames = [Image.fromarray(face(index, (48, 64))) for index in range(3)]
    for name in ("moving.gif", "moved.png", "still.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], lossless=True)
    paths = [folder / name for name in ("moving.gif", "moved.png", "still.webp")]
    assert command("--input", *paths, "--output", output, "--overlay", "--opacity", 1) == 0
    said = capsys.readouterr()
    assert f"{paths[0]}: 3 frames" in said.out and f"{paths[1]}: 3 frames" in said.out
    for name in ("moving", "moved"):
        masks, _ = read_clip(output / f"{name}.mov", "pal8")
        assert len(masks) == 3
    overlay = np.asarray(Image.open(output / "still_overlay.png"))[:48, :64]
    mask = np.asarray(Image.open(output / "still.png"))
    assert mask.shape == (48, 64)
    np.testing.assert_array_equal(overlay, blend(overlay, mask, CELEBAMASK, 1))
    write_clip(folder / "clip.mkv", times=(0,))
    (folder / "clip.xyz").write_bytes((folder / "clip.mkv").read_bytes())
    for path in paths[1:]:
        path.unlink()
    assert command("--input", folder, folder / "clip.xyz", "--output", tmp_path / "other") == 1
    said = capsys.readouterr()
    assert "clips one by one" in said.out and "clip.mkv" in said.out
    assert (tmp_path / "other" / "moving.png").is_file()  # in a folder it is a picture
    [line] = [
        line for line in said.err.splitlines() if "clip.xyz" in line and "--faces" not in line
    ]
    assert "HEIC" in line and ".mkv" in line and ".3gp" in line


def test_pictures_that_no_face_fills_are_named(
    command: Callable[..., int],
    nano: Nano,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def doubt(mask: np.ndarray, classes: Classes) -> str:
        assert classes == CELEBAMASK
        return "it has no nose" if mask.shape == (50, 70) else ""

    monkeypatch.setattr(results, "doubt", doubt)
    path = draw(tmp_path / "in" / "photo.png", 0, (50, 70))
    draw(tmp_path / "in" / "face.png", 1, (64, 64))
    assert command("--input", path.parent, "--output", tmp_path / "out") == 0
    said = capsys.readouterr()
    [line] = [line for line in said.err.splitlines() if str(path.parent) in line]
    assert all(word in line for word in (str(path), "no nose", "--faces"))
    assert f"2 masks in {tmp_path / 'out'}\n" in said.out
    parser = Parser(nano.config, nano.params, nano.batch_stats)
    assert parser(path).doubt == "it has no nose"
    assert parser(path.with_name("face.png")).doubt == ""


def test_what_is_said_of_clips(tmp_path: Path) -> None:
    require_av()
    clip = Clip(write_clip(tmp_path / "a clip.mp4", times=(0,), color_trc=16, colorspace=9))
    list(clip.frames())
    doubt, hdr = predict.clip_lines(clip, ["", "it has no nose", "it has no eyes"])
    assert all(word in doubt for word in (str(clip.path), "2 frames", "no nose", "--faces"))
    assert f"-i '{clip.path}'" in hdr and "tonemap" in hdr
    clip = Clip(write_clip(tmp_path / "clip.mp4", times=(0,)))
    list(clip.frames())
    assert list(predict.clip_lines(clip, ["", "it has no nose"])) == []
