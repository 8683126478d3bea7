import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from jaxparse import prepare
from jaxparse.data.folders import find_pairs
from jaxparse.data.masks import read_label
from jaxparse.data.releases.celebamask import (
    PAINT_ORDERS,
    PARTITION,
    make_record,
    paint_mask,
    read_picture,
)
from tests.refusal import refuses
from tests.release import COUNT, SPLIT, draw_parts, expected_label, write_part, write_release

OFFICIAL = (
    "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r "
    "neck_l neck cloth"
)
ACCESSORIES_LAST = (
    "neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair eye_g hat "
    "ear_r neck_l"
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def prepared(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run with default settings makes of it."""
    output = tmp_path_factory.mktemp("prepared") / "out"
    prepare.prepare(pristine, output)
    return output


@pytest.fixture
def release(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "release"))


def contents(output: Path) -> dict[str, bytes]:
    files = [path for path in output.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def test_official_masks_and_split(prepared: Path) -> None:
    for name, numbers in SPLIT.items():
        pairs = find_pairs(prepared, name)  # as training does
        assert sorted(int(pair.image.stem) for pair in pairs) == numbers
        for pair in pairs:
            assert pair.image.parent == prepared / name / f"{name}_image"
            number = int(pair.label.stem)
            expected = expected_label(number, tuple(OFFICIAL.split()))
            np.testing.assert_array_equal(read_label(pair.label), expected)
            with Image.open(pair.image) as image, Image.open(pair.label) as mask:
                assert np.abs(np.subtract(image.getpixel((0, 0)), (20 * number, 90, 30))).max() <= 2
                assert mask.mode == "P"


def test_masks_with_accessories_last(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"prepare {pristine} --output {tmp_path} --paint accessories-last"
    monkeypatch.setattr(sys, "argv", command.split())
    prepare.main()
    for name, numbers in SPLIT.items():
        for number in numbers:
            label = read_label(tmp_path / name / f"{name}_mask" / f"{number}.png")
            expected = expected_label(number, tuple(ACCESSORIES_LAST.split()))
            np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize(
    ("under", "over", "official", "accessories_last"),
    [
        ("l_eye", "eye_g", 4, 3),
        ("neck", "neck_l", 17, 16),
        ("cloth", "neck_l", 18, 16),
        ("cloth", "ear_r", 18, 15),
        ("hair", "hat", 14, 14),
        ("skin", "nose", 2, 2),
        ("neck", "skin", 17, 1),
    ],
)
def test_which_part_lies_over_which(
    tmp_path: Path, under: str, over: str, official: int, accessories_last: int
) -> None:
    everywhere = np.ones((512, 512), bool)
    parts = {part: write_part(tmp_path / f"{part}.png", everywhere) for part in (under, over)}
    for paint, value in (("official", official), ("accessories-last", accessories_last)):
        assert (paint_mask(parts, PAINT_ORDERS[paint]) == value).all()


def test_pictures_are_halved_with_antialiasing(tmp_path: Path) -> None:
    path = tmp_path / "0.jpg"
    # Left: stripes of one pixel, which 512 pixels cannot show. Right: a slope.
    picture = np.zeros((1024, 1024), np.uint8)
    picture[:, :512:2] = 200
    picture[:, 512:] = np.linspace(0, 255, 1024)[:, None]
    Image.fromarray(np.repeat(picture[..., None], 3, 2)).save(path, quality=98)
    halved = np.asarray(read_picture(path)).astype(int)
    assert halved.shape == (512, 512, 3)
    assert np.abs(halved[:, :248] - 100).max() <= 3
    means = picture[:, 512:].reshape(512, 2, 256, 2).mean((1, 3))
    assert np.abs(halved[:, 264:] - means[:, 8:, None]).max() <= 2


def test_pictures_keep_their_colour_resolution(prepared: Path) -> None:
    with Image.open(prepared / "val" / "val_image" / "0.jpg") as picture:
        assert JpegImagePlugin.get_sampling(picture) == 0  # 4:4:4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_resumes_and_ends_the_same(
    pristine: Path, prepared: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    # One thread, slowed down, so that the signal comes in the middle.
    code = (
        "import signal, time, jaxparse.prepare as p; make = p.make_face\n"
        # Ignored in what a shell has started in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "p.make_face = lambda task: (time.sleep(0.05), make(task))[1]\n"
        "p.cli.run(p.main)"
    )
    command = [sys.executable, "-c", code, pristine, "--output", output, "--num-workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(list(output.glob("*/*_mask/[!.]*.png"))) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[number]
    assert "Traceback" not in errors
    made = {path: path.stat().st_mtime_ns for path in output.glob("*/*/[!.]*")}
    assert 6 <= len(made) < 2 * COUNT
    (output / "train" / "train_mask" / ".11.123.png").write_bytes(b"half")
    prepare.prepare(pristine, output)
    assert contents(output) == contents(prepared)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_files_that_a_power_cut_left_are_made_again(
    pristine: Path, prepared: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(prepared, tmp_path / "out"))
    os.truncate(output / "train" / "train_image" / "1.jpg", 1000)
    (output / "train" / "train_mask" / "2.png").write_bytes(b"")
    (output / "val" / "val_mask" / "6.png").write_bytes(bytes(500))
    (output / "test" / "test_image" / "9.jpg").unlink()
    prepare.prepare(pristine, output)
    assert contents(output) == contents(prepared)


PICTURE, MASKS = "CelebA-HQ-img/3.jpg", "CelebAMask-HQ-mask-anno/0"
PART = f"{MASKS}/00003_{next(iter(draw_parts(3)))}.png"


def save(mode: str, size: int, value: int = 0) -> Callable[[Path], None]:
    color = (value,) * len(Image.new(mode, (1, 1)).getbands())
    picture = Image.new(mode, (size, size), color if len(color) > 1 else value)
    return lambda path: picture.save(path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (PICTURE, Path.unlink, ["there is no", "unpack it again"]),
        (PICTURE, truncate, ["truncated", "unpack it again"]),
        (PICTURE, save("RGB", 512), ["512x512", "1024x1024"]),
        (PART, truncate, ["cannot use"]),
        (PART, save("L", 256), ["256x256", "512x512"]),
        (PART, save("RGBA", 512), ["mode RGBA", "1, L, P or RGB"]),
        (PART, save("L", 512, 1), [" 1,", "0 and 255"]),
        (f"{MASKS}/00003_beard.png", save("L", 512), ["00000_PART"]),
        (f"{MASKS}/02000_skin.png", save("L", 512), ["CelebAMask-HQ-mask-anno/1"]),
    ],
)
def test_a_bad_file_is_named_and_fixing_it_completes_the_folder(
    release: Path,
    prepared: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], None],
    words: list[str],
) -> None:
    path, output = release / file, tmp_path / "out"
    whole = path.read_bytes() if path.exists() else None
    damage(path)
    with refuses("1 bad file", "same command"):
        prepare.prepare(release, output)
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if all(word in line for word in (str(path), *words))]
    path.unlink(missing_ok=True)
    if whole:
        path.write_bytes(whole)
    prepare.prepare(release, output)
    assert contents(output) == contents(prepared)


def test_a_picture_without_parts_is_named(
    release: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in release.glob(f"{MASKS}/00007_*.png"):
        path.unlink()
    with refuses("1 bad file"):
        prepare.prepare(release, tmp_path / "out")
    assert f"{release / MASKS}/00007_*.png; unpack" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_challenge_like_takes_pictures_of_the_same_splits(pristine: Path, tmp_path: Path) -> None:
    prepare.prepare(pristine, tmp_path, split="challenge-like")
    for name, numbers in SPLIT.items():
        assert sorted(int(pair.image.stem) for pair in find_pairs(tmp_path, name)) == numbers


def test_other_settings_or_another_folder_are_refused(
    release: Path, prepared: Path, tmp_path: Path
) -> None:
    record = prepared / "prepare.json"
    with refuses(record, '"paint": "official"', "--output"):
        prepare.prepare(release, prepared, paint="accessories-last")
    with refuses(record, '"split": "official"', "--output"):
        prepare.prepare(release, prepared, split="challenge-like")
    partition = release / PARTITION
    partition.write_text(partition.read_text().replace(" 2\n", " 1\n"))
    with refuses(record, '"val": 2', '"test": 2', "split_sha256", "lists of CelebA"):
        prepare.prepare(release, prepared)
    (tmp_path / "out" / "val").mkdir(parents=True)
    with refuses(tmp_path / "out", "holds val", "prepare.json", "--output"):
        prepare.prepare(release, tmp_path / "out")
    with refuses("--num-workers is 0"):
        prepare.prepare(release, prepared, num_workers=0)


def test_strange_files_in_the_output_are_named(
    pristine: Path, prepared: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(prepared, tmp_path / "out"))
    for kind, suffix in (("image", "jpg"), ("mask", "png")):
        folder = output / "val" / f"val_{kind}"
        shutil.copy(folder / f"6.{suffix}", folder / f"99.{suffix}")
    with refuses(output / "val", "picture 99"):
        prepare.prepare(pristine, output)
    folder = output / "test" / "test_image"
    Image.new("RGB", (64, 64)).save(folder / "3.jpg")
    Image.new("L", (64, 64)).save(folder.parent / "test_mask" / "3.png")
    (output / "val" / "val_image" / "99.jpg").unlink()
    (output / "val" / "val_mask" / "99.png").unlink()
    with refuses(folder / "3.jpg", "64x64", "512x512"):
        prepare.prepare(pristine, output)


def test_a_full_disk_is_foreseen_and_survived(
    pristine: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with refuses(output, "0.0 GB free", "12 pictures"):
            prepare.prepare(pristine, output)
    write = Path.write_bytes

    def fill_up(path: Path, data: bytes) -> None:
        if ".6." in path.name:
            write(path, b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_up)
        with refuses("cannot write 6", "No space left", "same command", error=OSError):
            prepare.prepare(pristine, output)
    prepare.prepare(pristine, output)
    assert contents(output) == contents(prepared)
    assert json.loads((output / "prepare.json").read_text())["pictures"]["train"] == 8


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    settings = make_record("official", "official", {"train": [1], "val": []})
    prepare.keep_record(tmp_path, settings)
    record = tmp_path / "prepare.json"
    for damaged, word in ((b"\xff\0{", r"\x00{"), (record.read_bytes()[:-3], "less")):
        record.write_bytes(damaged)
        with refuses(record, word, "--output"):
            prepare.keep_record(tmp_path, settings)
