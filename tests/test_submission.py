import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import cli, submission
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import write_image, write_mask
from jaxparse.scoring.submissions import check_submission, inspect_submission, write_submission
from tests.refusal import refuses

STEMS = ("0007", "0130", "2999")
Members = list[tuple[zipfile.ZipInfo, bytes]]


def encoded(picture: Image.Image, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def grey(*values: int, size: tuple[int, int] = (512, 512)) -> Image.Image:
    """Skin, with pixels of the given values in front."""
    label = np.ones(size, np.uint8)
    label.flat[: len(values)] = values
    return Image.fromarray(label)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for stem in STEMS:
        write_image(tmp_path / "test" / f"{stem}.jpg", np.zeros((8, 8, 3), np.uint8))
    return tmp_path / "test"


def good(folder: str = "test_mask") -> Members:
    masks = {f"{folder}/{stem}.png": encoded(grey(i)) for i, stem in enumerate(STEMS)}
    return [(zipfile.ZipInfo(name), data) for name, data in masks.items()]


def write_zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in members:
            archive.writestr(entry, data)
    return path


def replace(name: str, data: bytes) -> Callable[[Members], None]:
    """Puts the member in the place of the first mask."""

    def change(members: Members) -> None:
        members[0] = zipfile.ZipInfo(name), data

    return change


def add(name: str, data: bytes = b"") -> Callable[[Members], None]:
    return lambda members: members.append((zipfile.ZipInfo(name), data))


def content(data: bytes) -> Callable[[Members], None]:
    return replace("test_mask/0007.png", data)


def renamed(name: str) -> Callable[[Members], None]:
    return replace(name, encoded(grey()))


def compressed(members: Members) -> None:
    members[0][0].compress_type = zipfile.ZIP_LZMA


def palette(bits: int) -> Image.Image:
    picture = grey(*range(2**bits))
    picture.putpalette(bytes(3 * 2**bits))
    return picture


def with_wrong_checksum(png: bytes) -> bytes:
    """The PNG with another checksum behind its IDAT chunk, which Pillow decodes all the same."""
    start = png.index(b"IDAT")
    end = start + 4 + struct.unpack(">I", png[start - 4 : start])[0]
    return png[:end] + struct.pack(">I", zlib.crc32(png[start:end]) ^ 1) + png[end + 4 :]


WHOLE = encoded(grey(3))
GREY_16 = Image.fromarray(np.ones((512, 512), np.uint16))
# What is done to a good zip, the member that the line names, what it says.
FAULTS = {
    "missing": (lambda members: members.pop(0), "test_mask/0007.png", "is missing; "),
    "extra": (add("test_mask/8.png", WHOLE), "test_mask/8.png", "belongs to no image"),
    "text": (add("test_mask/notes.txt"), "test_mask/notes.txt", "belongs to no image"),
    "wrong stem": (renamed("test_mask/face.png"), "test_mask/face.png", "belongs to no image"),
    "zeros lost": (renamed("test_mask/7.png"), "test_mask/7.png", "expected 0007.png; rename"),
    "zeros added": (renamed("test_mask/00007.png"), "test_mask/00007.png", "expected 0007.png"),
    "capitals": (renamed("test_mask/0007.PNG"), "test_mask/0007.PNG", "expected 0007.png; rename"),
    "jpeg": (renamed("test_mask/0007.jpg"), "test_mask/0007.jpg", "0007.png; save it as a PNG"),
    "two of one mask": (add("test_mask/0007.jpg"), "test_mask/0007.jpg", "belongs to no image"),
    "small": (content(encoded(grey(size=(256, 256)))), "test_mask/0007.png", "is 256x256, expec"),
    "not square": (content(encoded(grey(size=(512, 511)))), "test_mask/0007.png", "is 511x512, ex"),
    "RGB": (content(encoded(grey().convert("RGB"))), "test_mask/0007.png", "is 8-bit RGB, expect"),
    "RGBA": (content(encoded(grey().convert("RGBA"))), "test_mask/0007.png", "is 8-bit RGBA, exp"),
    "LA": (
        content(encoded(grey().convert("LA"))),
        "test_mask/0007.png",
        "greyscale and alpha, exp",
    ),
    "mode 1": (content(encoded(grey().convert("1"))), "test_mask/0007.png", "is 1-bit greyscale"),
    "16 bit": (content(encoded(GREY_16)), "test_mask/0007.png", "is 16-bit greyscale"),
    "palette 1": (content(encoded(palette(1), bits=1)), "test_mask/0007.png", "is 1-bit palette"),
    "palette 2": (content(encoded(palette(2), bits=2)), "test_mask/0007.png", "is 2-bit palette"),
    "palette 4": (content(encoded(palette(4), bits=4)), "test_mask/0007.png", "is 4-bit palette"),
    "values": (content(encoded(grey(255, 37, 18))), "test_mask/0007.png", "holds 37, 255, outside"),
    "class 19": (content(encoded(grey(19))), "test_mask/0007.png", "holds 19, outside 0..18"),
    "nested": (
        renamed("test_mask/test_mask/0007.png"),
        "test_mask/test_mask/0007.png",
        "expected test_mask/0007.png",
    ),
    "no folder": (renamed("0007.png"), "0007.png", "expected test_mask/0007.png"),
    "second folder": (renamed("b/0007.png"), "b/0007.png", "expected test_mask/0007.png"),
    "empty folder": (add("b/"), "b/", "expected only test_mask/"),
    "empty folder within": (add("test_mask/b/"), "test_mask/b/", "expected only test_mask/"),
    "mac": (add("__MACOSX/test_mask/._0007.png"), "__MACOSX/test_mask/._0007.png", "is a leftover"),
    "finder": (add("test_mask/.DS_Store"), "test_mask/.DS_Store", "is a leftover"),
    "thumbs": (add("test_mask/Thumbs.db"), "test_mask/Thumbs.db", "is a leftover"),
    "desktop": (add("desktop.ini"), "desktop.ini", "is a leftover"),
    "absolute": (renamed("/test_mask/0007.png"), "/test_mask/0007.png", "plain path"),
    "upwards": (renamed("test_mask/../0007.png"), "test_mask/../0007.png", "plain path"),
    "drive": (renamed("C:/0007.png"), "C:/0007.png", "plain path"),
    "backslash": (renamed("test_mask\\0007.png"), "test_mask\\0007.png", "plain path"),
    "line break": (add("test_mask/a\nb.png"), "'test_mask/a\\nb.png'", "belongs to no image"),
    "compression": (compressed, "test_mask/0007.png", "has compression method 14"),
    "empty file": (content(b""), "test_mask/0007.png", "is not a PNG"),
    "jpeg inside": (
        content(b"\xff\xd8\xff\xe0" + bytes(40)),
        "test_mask/0007.png",
        "is not a PNG",
    ),
    "cut short": (content(WHOLE[: len(WHOLE) // 2]), "test_mask/0007.png", "cannot be decoded"),
    "only a header": (content(WHOLE[:20]), "test_mask/0007.png", "is not a PNG"),
    "checksum": (content(with_wrong_checksum(WHOLE)), "test_mask/0007.png", "cannot be decoded"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_the_file_and_the_fault(tmp_path: Path, images: Path, fault: str) -> None:
    change, name, reason = FAULTS[fault]
    members = good()
    change(members)
    lines = check_submission(write_zip(tmp_path / "a.zip", members), images, "server")
    assert [line for line in lines if line.startswith(f"{name}: ") and reason in line]
    # A file of a foreign name leaves its image without a mask; all else is one fault.
    expected = {"wrong stem": 2}.get(fault, 1)
    assert len(lines) == expected and "\n" not in "".join(lines)


def test_check_names_a_member_that_is_there_twice(tmp_path: Path, images: Path) -> None:
    members = [*good(), good()[1]]
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write_zip(tmp_path / "a.zip", members)
    assert check_submission(path, images, "server") == [
        "test_mask/0130.png: is in the zip 2 times; keep one"
    ]


def test_check_names_an_encrypted_member(tmp_path: Path, images: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", good()).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first entry of the directory
    (tmp_path / "a.zip").write_bytes(data)
    assert check_submission(tmp_path / "a.zip", images, "server") == [
        "test_mask/0007.png: is encrypted; zip without a password"
    ]


def test_check_names_a_member_with_a_wrong_checksum(tmp_path: Path, images: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", good()).read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    (line,) = check_submission(tmp_path / "a.zip", images, "server")
    assert line.startswith("test_mask/0007.png: cannot be unpacked (Bad CRC-32")


@pytest.mark.parametrize("content", [b"", b"no zip", None], ids=["empty", "text", "absent"])
def test_check_of_what_is_no_zip(tmp_path: Path, images: Path, content: bytes | None) -> None:
    path = tmp_path / "a.zip"
    if content is not None:
        path.write_bytes(content)
    (line,) = check_submission(path, images, "server")
    assert line.startswith(f"{path}: cannot be read as a zip (")


def test_check_of_a_cut_zip(tmp_path: Path, images: Path) -> None:
    path = write_zip(tmp_path / "a.zip", good())
    path.write_bytes(path.read_bytes()[:-40])
    (line,) = check_submission(path, images, "server")
    assert line.startswith(f"{path}: cannot be read as a zip (")


@pytest.mark.parametrize("members", [[], [(zipfile.ZipInfo("test_mask/"), b"")]])
def test_check_of_an_empty_zip(tmp_path: Path, images: Path, members: Members) -> None:
    path = write_zip(tmp_path / "a.zip", members)
    assert check_submission(path, images, "server") == [f"{path}: holds no file; expected 3 masks"]


def test_check_takes_what_other_tools_make(tmp_path: Path, images: Path) -> None:
    members = [(zipfile.ZipInfo("test_mask/"), b""), *good()]
    for entry, _ in members[1:]:
        entry.compress_type = zipfile.ZIP_DEFLATED
    members[1] = members[1][0], encoded(palette(8).point(lambda value: value % 19))
    path = write_zip(tmp_path / "renamed.zip", members)
    assert inspect_submission(path, images, "server") == (3, [], [])
    assert check_submission(path, sorted(images.iterdir()), "server") == []


def test_codabench_wants_masks_and_whole_code(tmp_path: Path, images: Path) -> None:
    path = tmp_path / "a.zip"
    assert check_submission(write_zip(path, good("masks")), images, "codabench") == []
    (line, *others) = check_submission(write_zip(path, good()), images, "codabench")
    assert line == "test_mask/0007.png: does not lie directly in masks/; expected masks/0007.png"
    assert len(others) == 2
    code = ["solution/ckpt.pth", "solution/requirements.txt", "solution/net/.keep"]
    members = good("masks") + [(zipfile.ZipInfo(name), b"code") for name in code]
    assert check_submission(write_zip(path, members), images, "codabench") == [
        "solution/run.py: is missing; the test phase runs the code"
    ]
    members.append((zipfile.ZipInfo("solution/run.py"), b""))
    assert inspect_submission(write_zip(path, members), images, "codabench") == (3, [], [])
    assert len(check_submission(path, images, "server")) == 4


def test_warnings_are_no_faults(tmp_path: Path, images: Path) -> None:
    members = [(entry, encoded(grey(3))) for entry, _ in good()]
    report = inspect_submission(write_zip(tmp_path / "a.zip", members), images, "server")
    assert report == (3, [], ["all 3 masks are the same"])
    members[1] = members[1][0], encoded(Image.new("L", (512, 512)))
    report = inspect_submission(write_zip(tmp_path / "a.zip", members), images, "server")
    assert report == (3, [], ["1 of 3 masks are all background, first test_mask/0130.png"])


def test_images_of_one_stem_share_no_mask(tmp_path: Path, images: Path) -> None:
    write_image(images / "0007.png", np.zeros((8, 8, 3), np.uint8))
    with refuses("0007.jpg", "0007.png"):
        check_submission(write_zip(tmp_path / "a.zip", good()), images, "server")


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    for i, stem in enumerate(STEMS):
        write_mask(tmp_path / "masks" / f"{stem}.png", draw_face(0, i, 512)[1])
    return tmp_path / "masks"


@pytest.mark.parametrize(
    ("format", "folder"), [("server", "test_mask"), ("codabench", "masks")], ids=str
)
def test_round_trip(tmp_path: Path, images: Path, drawn: Path, format: str, folder: str) -> None:
    (drawn / "0007_overlay.png").write_bytes(b"left out")
    path = tmp_path / "new" / "test_mask.zip"
    assert write_submission(drawn, images, path, format) == []
    assert inspect_submission(path, images, format) == (3, [], [])
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{folder}/{stem}.png" for stem in STEMS]
        for name in archive.namelist():
            assert archive.read(name) == (drawn / name.split("/")[1]).read_bytes()
        archive.extractall(tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / folder / "0007.png").stat().st_mode & 0o400
    first = path.read_bytes()
    for mask in drawn.iterdir():
        mask.touch()
    write_submission(drawn, images, path, format)
    assert path.read_bytes() == first


def test_a_faulty_submission_leaves_what_was_there(
    tmp_path: Path, images: Path, drawn: Path
) -> None:
    write_mask(drawn / "0130.png", np.full((512, 512), 255, np.uint8))
    (drawn / "2999.png").unlink()
    output = tmp_path / "out" / "test_mask.zip"
    output.parent.mkdir()
    output.write_bytes(b"old")
    with pytest.raises(ValueError) as caught:
        write_submission(drawn, images, output, "server")
    assert str(caught.value).splitlines() == [
        f"{output} is not written:",
        "test_mask/0130.png: holds 255, outside 0..18; give every pixel a class",
        f"test_mask/2999.png: is missing; {images / '2999.jpg'} has no mask",
    ]
    assert [path.read_bytes() for path in output.parent.iterdir()] == [b"old"]


def test_nothing_to_pack(tmp_path: Path, images: Path, drawn: Path) -> None:
    with refuses("0007.png"):
        write_submission(tmp_path / "absent", images, tmp_path / "a.zip", "server")
    with refuses("a.tar"):
        write_submission(drawn, images, tmp_path / "a.tar", "server")


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["submission", *map(str, argv)])
        with pytest.raises(SystemExit) as caught:
            cli.run(submission.main)
        return (caught.value.code, *capsys.readouterr())

    return run


def test_command_line_packs_and_checks(
    tmp_path: Path, images: Path, drawn: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "test_mask.zip"
    done = (0, f"{path}: 3 masks, no faults\n", "")
    flags = ("--images", images, "--format", "codabench")
    assert command("pack", drawn, *flags, "--output", path) == done
    assert command("check", path, *flags) == done
    code, output, _ = command("check", path, "--images", tmp_path / "absent")
    assert code == 1 and output == ""
    path.write_bytes(b"")
    assert command("check", path, "--images", images)[0] == 1
    for mask in drawn.iterdir():
        write_mask(mask, np.zeros((8, 8), np.uint8))
    code, output, errors = command("pack", drawn, *flags, "--output", path)
    assert (code, output) == (1, "")
    assert errors.splitlines()[0] == f"error: {path} is not written:"
    assert "masks/0007.png: is 8x8, expected 512x512" in errors.splitlines()[1]


def test_check_shows_the_first_twenty_faults(
    tmp_path: Path, images: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    members = good() + [(zipfile.ZipInfo(f"test_mask/x{i:02}.png"), b"") for i in range(22)]
    path = write_zip(tmp_path / "a.zip", members)
    code, output, _ = command("check", path, "--images", images)
    lines = output.splitlines()
    assert code == 1 and len(lines) == 21 and lines[-1] == "and 2 more"
    assert lines[0].startswith("test_mask/x00.png: ") and lines[19].startswith("test_mask/x19.png")
