import io
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import cli, submission
from jaxparse.images import read_label, write_image, write_mask
from jaxparse.submission import check_submission, write_submission

COUNT = 3
MASKS = np.random.default_rng(0).integers(0, 19, (COUNT, 64, 64)).astype(np.uint8)
MASKS = MASKS.repeat(8, 1).repeat(8, 2)  # 512 × 512


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Test pictures 00.jpg, 01.jpg, 02.jpg."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        write_image(folder / f"{index:02d}.jpg", np.zeros((512, 512, 3), np.uint8))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    for index, mask in enumerate(MASKS):
        write_mask(folder / f"{index:02d}.png", mask)
    return folder


def png(array: np.ndarray, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG", **options)
    return content.getvalue()


GOOD = {f"test_mask/{index:02d}.png": png(mask) for index, mask in enumerate(MASKS)}
FIRST = "test_mask/00.png"


def write_zip(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content, **options)
    return path


def two_colours() -> bytes:
    """A palette PNG with a bit per pixel, which Pillow reads as any other."""
    picture = Image.fromarray(MASKS[0] % 2)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("format", ["server", "codabench"])
def test_what_is_written_is_good_and_whole(
    images: list[Path], masks: Path, tmp_path: Path, format: str
) -> None:
    path = tmp_path / "test_mask.zip"
    write_submission(masks, images, path, format)
    assert check_submission(path, images, format) == []
    folder = "masks" if format == "codabench" else "test_mask"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{folder}/{index:02d}.png" for index in range(COUNT)]
        archive.extractall(tmp_path)
    for index, mask in enumerate(MASKS):
        np.testing.assert_array_equal(read_label(tmp_path / folder / f"{index:02d}.png"), mask)
    content = path.read_bytes()
    write_submission(masks, images, path, format)
    assert path.read_bytes() == content


def test_zips_of_other_tools_are_good(images: list[Path], tmp_path: Path) -> None:
    members = {"my results/": b"", **{f"my results/{Path(k).name}": v for k, v in GOOD.items()}}
    path = write_zip(tmp_path / "x.zip", members, compress_type=zipfile.ZIP_DEFLATED)
    assert check_submission(path, images) == []


REFUSED = {
    "missing": ({FIRST: None}, "test_mask/00.png is missing; "),
    "extra": ({"test_mask/07.png": png(MASKS[0])}, "test_mask/07.png belongs to no test picture"),
    "padded": (
        {FIRST: None, "test_mask/0.png": png(MASKS[0])},
        "test_mask/0.png belongs to no test picture; it should be 00.png",
    ),
    "upper case": (
        {FIRST: None, "test_mask/00.PNG": png(MASKS[0])},
        "test_mask/00.PNG does not end in .png",
    ),
    "jpeg": ({"test_mask/00.jpg": b"x"}, "test_mask/00.jpg does not end in .png"),
    "size": ({FIRST: png(MASKS[0][:, :256])}, "test_mask/00.png is 256x512; expected 512x512"),
    "rgb": ({FIRST: png(np.zeros((512, 512, 3), np.uint8))}, "00.png is RGB of 8 bits; expected"),
    "rgba": ({FIRST: png(np.zeros((512, 512, 4), np.uint8))}, "00.png is RGBA of 8 bits; expected"),
    "alpha": (
        {FIRST: png(np.zeros((512, 512, 2), np.uint8))},
        "00.png is grey with alpha of 8 bits; expected",
    ),
    "16 bits": ({FIRST: png(MASKS[0].astype(np.uint16))}, "00.png is grey of 16 bits; expected"),
    "1 bit": ({FIRST: png(MASKS[0] > 9)}, "00.png is grey of 1 bits; expected"),
    "palette": ({FIRST: two_colours()}, "00.png is palette of 1 bits; expected 8 bits"),
    "37": ({FIRST: png(MASKS[0] // 18 * np.uint8(37))}, "00.png holds 37, outside 0..18"),
    "255": ({FIRST: png(MASKS[0] // 18 * np.uint8(255))}, "00.png holds 255, outside 0..18"),
    "no png": ({FIRST: b"GIF89a"}, "00.png is no PNG"),
    "cut png": ({FIRST: GOOD[FIRST][:400]}, "00.png cannot be read"),
    "nested": (
        {FIRST: None, "test_mask/masks/00.png": GOOD[FIRST]},
        "test_mask/masks/00.png lies in nested folders; expected test_mask/NAME.png",
    ),
    "no folder": ({FIRST: None, "00.png": GOOD[FIRST]}, "00.png lies outside of any folder"),
    "two folders": (
        {FIRST: None, "other/00.png": GOOD[FIRST]},
        "other/00.png lies in a folder of its own; expected all masks in test_mask/",
    ),
    "macosx": ({"__MACOSX/test_mask/._00.png": b"x"}, "__MACOSX/test_mask/._00.png is a stray"),
    "ds store": ({"test_mask/.DS_Store": b"x"}, "test_mask/.DS_Store is a stray file"),
    "thumbs": ({"test_mask/Thumbs.db": b"x"}, "test_mask/Thumbs.db is a stray file"),
    "absolute": ({"/test_mask/00.png": b"x"}, "/test_mask/00.png is no path within a folder"),
    "upwards": ({"test_mask/../00.png": b"x"}, "test_mask/../00.png is no path within a folder"),
    "empty": (dict.fromkeys(GOOD), "00.png is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_server_refuses_is_refused(images: list[Path], tmp_path: Path, name: str) -> None:
    changes, words = REFUSED[name]
    members = {k: v for k, v in (GOOD | changes).items() if v is not None}
    faults = check_submission(write_zip(tmp_path / "x.zip", members), images)
    assert sum(words in fault for fault in faults) == 1, faults
    assert all(fault.count("\n") == 0 for fault in faults)
    others = [f for f in faults if words not in f and "is missing" not in f]
    assert not others or name == "empty"


def test_a_name_twice(images: list[Path], tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", GOOD)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(FIRST, GOOD[FIRST])
    assert check_submission(path, images) == [f"{FIRST} is in the zip twice; keep one"]


def test_damaged_encrypted_and_oddly_compressed(images: list[Path], tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", GOOD)
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 1
    path.write_bytes(content)
    (fault,) = check_submission(path, images)
    assert fault.startswith(f"{FIRST} is damaged (Bad CRC-32")

    content = bytearray(write_zip(path, GOOD).read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(signature) + offset
        content[at : at + 2] = struct.pack("<H", 1)
    path.write_bytes(content)
    assert check_submission(path, images)[0] == f"{FIRST} is encrypted; zip without a password"

    write_zip(path, GOOD, compress_type=zipfile.ZIP_LZMA)
    faults = check_submission(path, images)
    assert faults[0].startswith(f"{FIRST} is compressed otherwise than stored or deflated")


def test_what_is_no_zip(images: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    assert check_submission(path, images)[0].startswith(f"{path} is no zip file (")
    path.write_bytes(zlib.compress(b"no zip"))
    assert check_submission(path, images)[0].startswith(f"{path} is no zip file (")


def test_codabench_wants_its_folder(images: list[Path], tmp_path: Path) -> None:
    faults = check_submission(write_zip(tmp_path / "x.zip", GOOD), images, "codabench")
    assert f"{FIRST} lies in a folder of its own; expected all masks in masks/" in faults


def test_nothing_is_written_that_would_be_refused(
    images: list[Path], masks: Path, tmp_path: Path
) -> None:
    for path in masks.iterdir():
        write_mask(tmp_path / "masks" / path.name, read_label(path))
    bad = tmp_path / "masks" / "01.png"
    write_mask(bad, MASKS[1][:100])
    output = tmp_path / "out" / "x.zip"
    with pytest.raises(ValueError, match="x.zip would be refused: x/01.png is 512x100; expected"):
        write_submission(tmp_path / "masks", images, output)
    bad.unlink()
    with pytest.raises(ValueError, match="masks lacks 01.png and 0 other masks of images"):
        write_submission(tmp_path / "masks", images, output)
    assert not list(output.parent.iterdir())


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    def run(*flags: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["submission", *map(str, flags)])
        with pytest.raises(SystemExit) as caught:
            cli.run(submission.main)
        return caught.value.code, "".join(capsys.readouterr())

    return run


def test_commands(command: Callable, images: list[Path], masks: Path, tmp_path: Path) -> None:
    path, folder = tmp_path / "test_mask.zip", images[0].parent
    packed = command("pack", masks, "--images", folder, "--output", path)
    assert packed == (0, f"wrote {path}: 3 masks, checked\n")
    assert command("check", path, "--images", folder) == (0, f"{path} is good: 3 masks\n")
    write_zip(path, {f"test_mask/{index}.txt": b"x" for index in range(30)})
    code, printed = command("check", path, "--images", folder)
    lines = printed.splitlines()
    assert code == 1 and len(lines) == 21
    assert lines[0] == "test_mask/0.txt does not end in .png; expected test_mask/0.png"
    assert lines[20] == "and 13 more"
