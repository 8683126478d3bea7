import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask
from jaxparse.scoring.submissions import Format, Inspection, inspect_submission, write_submission
from tests.refusal import refuses
from tests.zips import STEMS, Members, encoded, good, grey, write_images, write_masks, write_zip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "test")


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


def inspect(path: Path, members: Members, images: Path, format: Format = "server") -> Inspection:
    return inspect_submission(write_zip(path, members), images, format)


MASK = "test_mask/0007.png"  # of the first image
WHOLE = encoded(grey(3))
GREY_16 = Image.fromarray(np.ones((512, 512), np.uint16))
# What is done to a good zip, the member that the line names, what the line says.
FAULTS = {
    "missing": (lambda members: members.pop(0), MASK, "missing", "0007.jpg"),
    "extra": (add("test_mask/8.png", WHOLE), "test_mask/8.png", "remove"),
    "text": (add("test_mask/notes.txt"), "test_mask/notes.txt", "remove"),
    "wrong stem": (renamed("test_mask/face.png"), "test_mask/face.png", "remove"),
    "zeros lost": (renamed("test_mask/7.png"), "test_mask/7.png", "0007.png", "rename"),
    "zeros added": (renamed("test_mask/00007.png"), "test_mask/00007.png", " 0007.png", "rename"),
    "capitals": (renamed("test_mask/0007.PNG"), "test_mask/0007.PNG", "0007.png", "rename"),
    "jpeg": (renamed("test_mask/0007.jpg"), "test_mask/0007.jpg", "0007.png", "save"),
    "two of one mask": (add("test_mask/0007.jpg"), "test_mask/0007.jpg", "remove"),
    "small": (content(encoded(grey(size=(256, 256)))), MASK, "256x256", "512x512"),
    "not square": (content(encoded(grey(size=(512, 511)))), MASK, "511x512", "512x512"),
    "RGB": (content(encoded(grey().convert("RGB"))), MASK, "8-bit RGB,"),
    "RGBA": (content(encoded(grey().convert("RGBA"))), MASK, "8-bit RGBA,"),
    "LA": (content(encoded(grey().convert("LA"))), MASK, "greyscale and alpha"),
    "mode 1": (content(encoded(grey().convert("1"))), MASK, "1-bit greyscale", "8-bit"),
    "16 bit": (content(encoded(GREY_16)), MASK, "16-bit greyscale", "8-bit"),
    "palette 1": (content(encoded(palette(1), bits=1)), MASK, "1-bit palette", "8-bit"),
    "palette 2": (content(encoded(palette(2), bits=2)), MASK, "2-bit palette", "8-bit"),
    "palette 4": (content(encoded(palette(4), bits=4)), MASK, "4-bit palette", "8-bit"),
    "values": (content(encoded(grey(255, 37, 18))), MASK, " 37, 255,", "0..18"),
    "class 19": (content(encoded(grey(19))), MASK, " 19,", "0..18"),
    "nested": (renamed(f"test_mask/{MASK}"), f"test_mask/{MASK}", f" {MASK}"),
    "no folder": (renamed("0007.png"), "0007.png", MASK),
    "second folder": (renamed("b/0007.png"), "b/0007.png", MASK),
    "empty folder": (add("b/"), "b/", "test_mask/"),
    "empty folder within": (add("test_mask/b/"), "test_mask/b/", " test_mask/"),
    "mac": (add("__MACOSX/test_mask/._0007.png"), "__MACOSX/test_mask/._0007.png", "leftover"),
    "finder": (add("test_mask/.DS_Store"), "test_mask/.DS_Store", "leftover"),
    "thumbs": (add("test_mask/Thumbs.db"), "test_mask/Thumbs.db", "leftover"),
    "desktop": (add("desktop.ini"), "desktop.ini", "leftover"),
    "absolute": (renamed(f"/{MASK}"), f"/{MASK}", "path"),
    "upwards": (renamed("test_mask/../0007.png"), "test_mask/../0007.png", "path"),
    "drive": (renamed("C:/0007.png"), "C:/0007.png", "path"),
    "backslash": (renamed("test_mask\\0007.png"), "test_mask\\0007.png", "path"),
    "line break": (add("test_mask/a\nb.png"), "test_mask/a\\nb.png", "remove"),
    "unpacks to 5 MB": (content(bytes(5_000_000)), MASK, "5000000 bytes"),
    "compression": (compressed, MASK, "method 14"),
    "empty file": (content(b""), MASK, "not a PNG"),
    "jpeg inside": (content(b"\xff\xd8\xff\xe0" + bytes(40)), MASK, "not a PNG"),
    "only a header": (content(WHOLE[:20]), MASK, "not a PNG"),
    "cut short": (content(WHOLE[: len(WHOLE) // 2]), MASK, "decoded"),
    "checksum": (content(with_wrong_checksum(WHOLE)), MASK, "decoded"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_line_names_the_file_and_the_fault(tmp_path: Path, images: Path, fault: str) -> None:
    change, name, *words = FAULTS[fault]
    members = good()
    change(members)
    lines = inspect(tmp_path / "a.zip", members, images).faults
    texts = [line.removeprefix(f"{name}:") for line in lines if line.startswith(f"{name}: ")]
    assert len(texts) == 1 and all(word in texts[0] for word in words), lines
    # A file of a foreign name leaves its image without a mask; all else is one fault.
    expected = {"wrong stem": 2}.get(fault, 1)
    assert len(lines) == expected and "\n" not in "".join(lines)


def test_a_member_that_is_there_twice(tmp_path: Path, images: Path) -> None:
    members = [*good(), good()[1]]
    with pytest.warns(UserWarning, match="Duplicate name"):  # zipfile's
        (line,) = inspect(tmp_path / "a.zip", members, images).faults
    assert line.startswith("test_mask/0130.png: ") and "2 times" in line


def test_an_encrypted_member(tmp_path: Path, images: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", good()).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first entry of the directory
    (tmp_path / "a.zip").write_bytes(data)
    (line,) = inspect_submission(tmp_path / "a.zip", images, "server").faults
    assert line.startswith(f"{MASK}: ") and "encrypted" in line


def test_a_member_with_a_wrong_checksum(tmp_path: Path, images: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", good()).read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    (line,) = inspect_submission(tmp_path / "a.zip", images, "server").faults
    assert line.startswith(f"{MASK}: ") and "CRC-32" in line


@pytest.mark.parametrize("content", [b"", b"no zip", None], ids=["empty", "text", "absent"])
def test_a_file_that_is_not_a_zip(tmp_path: Path, images: Path, content: bytes | None) -> None:
    path = tmp_path / "a.zip"
    if content is not None:
        path.write_bytes(content)
    (line,) = inspect_submission(path, images, "server").faults
    assert line.startswith(f"{path}: ") and "cannot be read" in line


def test_a_truncated_zip(tmp_path: Path, images: Path) -> None:
    path = write_zip(tmp_path / "a.zip", good())
    path.write_bytes(path.read_bytes()[:-40])
    (line,) = inspect_submission(path, images, "server").faults
    assert line.startswith(f"{path}: ") and "cannot be read" in line


@pytest.mark.parametrize("members", [[], [(zipfile.ZipInfo("test_mask/"), b"")]])
def test_an_empty_zip(tmp_path: Path, images: Path, members: Members) -> None:
    (line,) = inspect(tmp_path / "a.zip", members, images).faults
    assert line.startswith(f"{tmp_path / 'a.zip'}: ") and "3 masks" in line


def test_zips_of_other_tools_are_accepted(tmp_path: Path, images: Path) -> None:
    members = [(zipfile.ZipInfo("test_mask/"), b""), *good()]
    for entry, _ in members[1:]:
        entry.compress_type = zipfile.ZIP_DEFLATED
    members[1] = members[1][0], encoded(palette(8).point(lambda value: value % 19))
    path = write_zip(tmp_path / "renamed.zip", members)
    assert inspect_submission(path, images, "server") == (3, [], [])
    assert inspect_submission(path, sorted(images.iterdir()), "server") == (3, [], [])


def test_codabench_wants_masks_and_all_of_the_code(tmp_path: Path, images: Path) -> None:
    path = tmp_path / "a.zip"
    assert inspect(path, good("masks"), images, "codabench").faults == []
    lines = inspect(path, good(), images, "codabench").faults
    assert [line.split(": ")[0] for line in lines] == [f"test_mask/{stem}.png" for stem in STEMS]
    assert " masks/0007.png" in lines[0]
    code = ["solution/ckpt.pth", "solution/requirements.txt", "solution/net/.keep"]
    members = good("masks") + [(zipfile.ZipInfo(name), b"code") for name in code]
    (line,) = inspect(path, members, images, "codabench").faults
    assert line.startswith("solution/run.py: ") and "missing" in line
    members.append((zipfile.ZipInfo("solution/run.py"), b""))
    assert inspect(path, members, images, "codabench") == (3, [], [])
    assert len(inspect(path, members, images).faults) == 4


def test_warnings_are_not_faults(tmp_path: Path, images: Path) -> None:
    members = [(entry, encoded(grey(3))) for entry, _ in good()]
    count, faults, (warning,) = inspect(tmp_path / "a.zip", members, images)
    assert (count, faults) == (3, []) and "all 3 masks are the same" in warning
    members[1] = members[1][0], encoded(Image.new("L", (512, 512)))
    count, faults, (warning,) = inspect(tmp_path / "a.zip", members, images)
    assert (count, faults) == (3, [])
    assert "1 of 3" in warning and "background" in warning and "test_mask/0130.png" in warning


def test_two_images_of_one_stem_are_refused(tmp_path: Path, images: Path) -> None:
    write_image(images / "0007.png", np.zeros((8, 8, 3), np.uint8))
    with refuses("0007.jpg", "0007.png"):
        inspect(tmp_path / "a.zip", good(), images)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return write_masks(tmp_path / "masks")


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
    with refuses(output) as caught:
        write_submission(drawn, images, output, "server")
    _, values, missing = str(caught.value).splitlines()
    assert values.startswith("test_mask/0130.png: ") and "255" in values and "0..18" in values
    assert missing.startswith("test_mask/2999.png: ") and str(images / "2999.jpg") in missing
    assert [path.read_bytes() for path in output.parent.iterdir()] == [b"old"]


def test_nothing_to_pack(tmp_path: Path, images: Path, drawn: Path) -> None:
    with refuses("0007.png"):
        write_submission(tmp_path / "absent", images, tmp_path / "a.zip", "server")
    with refuses("a.tar", ".zip"):
        write_submission(drawn, images, tmp_path / "a.tar", "server")
