import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import CELEBAMASK, IGNORE_LABEL, convert_label, load_classes
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import read_image, write_image
from jaxparse.data.masks import read_label, read_pair, write_mask
from tests.refusal import refuses

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def all_classes() -> np.ndarray:
    """Mask [4, 5] that holds 0..18 and 255."""
    return np.array([*range(len(CELEBAMASK)), IGNORE_LABEL], np.uint8).reshape(4, 5)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def test_greyscale_palette_and_grey_alpha_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "grey.png")
    grey = np.asarray(read_image(tmp_path / "grey.png"))
    np.testing.assert_array_equal(grey, np.repeat(NOISE[..., :1], 3, axis=-1))
    Image.fromarray(NOISE[..., 0]).convert("LA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "alpha.png")), grey)
    write_mask(tmp_path / "palette.png", np.arange(19, dtype=np.uint8)[None])
    np.testing.assert_array_equal(
        np.asarray(read_image(tmp_path / "palette.png"))[0], CELEBAMASK.palette
    )


def test_write_mask_keeps_indices_and_palette(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", all_classes())
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), all_classes())
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[: 3 * len(CELEBAMASK)] == CELEBAMASK.palette.ravel().tolist()
        np.testing.assert_array_equal(np.asarray(picture), all_classes())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_mask_is_read_in_the_table_in_which_it_was_written(tmp_path: Path) -> None:
    zllrunning = load_classes("zllrunning")
    there = convert_label(all_classes(), CELEBAMASK, zllrunning)
    write_mask(tmp_path / "a.png", there, zllrunning)
    with Image.open(tmp_path / "a.png") as picture:
        values = np.asarray(picture)
    assert values[0, 4] == 4 and values[0, 2] == 10  # left_eye and nose there
    label = read_label(tmp_path / "a.png", labels_are=zllrunning)
    np.testing.assert_array_equal(label, all_classes())
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", zllrunning), there)
    with refuses(tmp_path / "a.png", "celebamask", "--labels-are zllrunning"):
        read_label(tmp_path / "a.png")


def test_greyscale_mask_holds_classes(tmp_path: Path) -> None:
    Image.fromarray(all_classes()).save(tmp_path / "a.png")
    label = read_label(tmp_path / "a.png")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, all_classes())


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_palette_colours_are_mapped(tmp_path: Path, mode: str) -> None:
    classes = np.random.default_rng(1).integers(0, len(CELEBAMASK), (9, 13), dtype=np.uint8)
    Image.fromarray(CELEBAMASK.palette[classes]).convert(mode).save(tmp_path / "a.png")
    label = read_label(tmp_path / "a.png")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, classes)


@pytest.mark.parametrize("colour", [(1, 2, 3), (0, 0, 1), (255, 255, 255), (203, 0, 0)])
def test_foreign_colour_is_refused(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    colours = CELEBAMASK.palette[np.ones((4, 4), int)]
    colours[2, 3] = colour
    Image.fromarray(colours).save(tmp_path / "a.png")
    with refuses("a.png", colour, "--labels-are"):
        read_label(tmp_path / "a.png")


def test_colours_of_a_known_tool_are_named(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (255, 85, 0), (0, 170, 255)], np.uint8)
    Image.fromarray(colours[np.eye(3, dtype=int)]).save(tmp_path / "a.png")
    with refuses("a.png", "zllrunning", "--labels-are"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize("value", [19, 37, 254])
def test_value_outside_the_classes_is_refused(tmp_path: Path, value: int) -> None:
    label = all_classes()
    label[1, 2] = value
    write_mask(tmp_path / "x.png", label)
    with refuses("x.png", value, "0..18", "255", "celebamask", "--labels-are"):
        read_label(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["1", "I;16", "LA"])
def test_mask_of_another_mode_is_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(all_classes()).convert(mode).save(tmp_path / "a.png")
    with refuses("a.png", f"mode {mode},", "P or L"):
        read_label(tmp_path / "a.png")


def test_truncated_mask_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", NOISE[..., 0] % len(CELEBAMASK))
    cut(tmp_path / "a.png")
    with refuses("cannot read", "a.png"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [2, 4])
def test_greyscale_masks_of_few_bits_keep_their_classes(tmp_path: Path, bits: int) -> None:
    label = (np.arange(64, dtype=np.uint8) % min(2**bits, len(CELEBAMASK))).reshape(8, 8)
    rows = (label.reshape(8, -1, 8 // bits) << np.arange(8 - bits, -1, -bits)).sum(2)
    lines = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )
    np.testing.assert_array_equal(read_label(path), label)


def test_png_whose_tail_is_zeros_is_refused(tmp_path: Path) -> None:
    """As after a power cut: Pillow decodes it, and fills the rest with classes."""
    label = draw_face(0, 0, 256)[1]
    for path, read in ((tmp_path / "mask.png", read_label), (tmp_path / "image.png", read_image)):
        write_mask(path, label) if read is read_label else write_image(path, draw_face(0, 0, 64)[0])
        whole = path.read_bytes()
        for kept in (len(whole) // 2, len(whole) * 9 // 10, len(whole) - 13):
            path.write_bytes(whole[:kept] + bytes(len(whole) - kept))
            with refuses(path):
                read(path)
        path.write_bytes(whole)
        read(path)


def test_mask_whose_palette_an_editor_renumbered_is_read_by_colour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label = draw_face(0, 0, 128)[1]
    label[:, :3] = 255
    write_mask(tmp_path / "m.png", label)
    for name in ("q.png", "r.png"):
        Image.open(tmp_path / "m.png").convert("RGB").quantize(256).save(tmp_path / name)
        assert (np.array(Image.open(tmp_path / name)) != label).any()
        np.testing.assert_array_equal(read_label(tmp_path / name), label)
    assert len(caplog.messages) == 1 and str(tmp_path) in caplog.messages[0]


@pytest.mark.parametrize("colours", [[(0, 0, 0), (255, 255, 255)], [(9, 9, 9), (204, 0, 0)]])
def test_other_palettes_leave_the_indices_alone(tmp_path: Path, colours: list) -> None:
    """Black and white, and colours of which one is no class's."""
    label = np.eye(8, dtype=np.uint8)
    picture = Image.fromarray(label)
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_label(tmp_path / "m.png"), label)


def test_jpeg_named_png_is_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(draw_face(0, 0, 64)[1]).save(path, format="JPEG")
    with refuses(path, "JPEG", "PNG"):
        read_label(path)


def test_greyscale_mask_saved_as_rgb(tmp_path: Path) -> None:
    label = draw_face(0, 0, 64)[1]
    Image.fromarray(label).convert("RGB").save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_label(tmp_path / "m.png"), label)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_orientation_of_only_one_of_a_pair(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    """Refused unless the sizes show that the mask is upright, as for quarter turns."""
    turned = orientation in (5, 6, 7, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = size[::-1] if turned else size
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    Image.new("RGB", stored[::-1]).save(image, exif=exif)
    write_mask(mask, np.zeros(size, np.uint8))
    if orientation == 1 or (turned and size[0] != size[1]):
        picture, label = read_pair(image, mask)
        assert picture.size[::-1] == label.shape == size
    else:
        with refuses(image, mask, orientation, "upright"):
            read_pair(image, mask)
