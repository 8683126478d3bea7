import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import IGNORE_LABEL, NUM_CLASSES, PALETTE
from jaxparse.data.images import read_image, read_label, read_size, write_image, write_mask
from tests.refusal import refuses

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def all_classes() -> np.ndarray:
    """Mask [4, 5] that holds 0..18 and 255."""
    return np.array([*range(NUM_CLASSES), IGNORE_LABEL], np.uint8).reshape(4, 5)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def test_read_image_keeps_rgb_pixels_and_size(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", NOISE)
    image = read_image(tmp_path / "a.png")
    assert (image.mode, image.size) == ("RGB", (60, 40))
    np.testing.assert_array_equal(np.asarray(image), NOISE)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_turns_the_picture_and_its_size(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # right half white; turned clockwise, the bottom half
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, quality=100)
    image = np.asarray(read_image(path))
    assert image.shape == (32, 16, 3) and read_size(path) == (32, 16)
    assert image[:14].max() < 10 and image[18:].min() > 245


def test_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        image = np.asarray(read_image(tmp_path / name))
        np.testing.assert_array_equal(image[0, :, 1], [0, 1, 128, 156, 255])
        assert image.shape == (1, 5, 3)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # full cyan
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.jpg", quality=100)
    image = np.asarray(read_image(tmp_path / "a.jpg")).reshape(-1, 3)
    np.testing.assert_allclose(image.mean(axis=0), [0, 255, 255], atol=3)


def test_transparent_pixels_are_laid_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 102]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = np.asarray(read_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(image, [[[10, 20, 30], [255, 255, 255], [153, 153, 153]]])


def test_greyscale_palette_and_grey_alpha_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "grey.png")
    grey = np.asarray(read_image(tmp_path / "grey.png"))
    np.testing.assert_array_equal(grey, np.repeat(NOISE[..., :1], 3, axis=-1))
    Image.fromarray(NOISE[..., 0]).convert("LA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "alpha.png")), grey)
    write_mask(tmp_path / "palette.png", np.arange(19, dtype=np.uint8)[None])
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "palette.png"))[0], PALETTE)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_image_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, NOISE)
    cut(path)
    with refuses(path, "truncated", "copy it again") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + 20 * b"x"])
def test_a_file_that_is_not_a_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, read_label, read_size):
        with refuses("cannot read", path):
            read(path)


def test_missing_and_floating_point_images_are_refused(tmp_path: Path) -> None:
    for read in (read_image, read_label, read_size):
        with refuses("there is no", tmp_path / "none.jpg"):
            read(tmp_path / "none.jpg")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with refuses("float.tif", "floating-point", "8 bits"):
        read_image(tmp_path / "float.tif")


def test_write_mask_keeps_indices_and_palette(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", all_classes())
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), all_classes())
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[: 3 * NUM_CLASSES] == PALETTE.ravel().tolist()
        np.testing.assert_array_equal(np.asarray(picture), all_classes())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_mask_is_read_in_the_order_in_which_it_was_written(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", all_classes(), "zllrunning")
    with Image.open(tmp_path / "a.png") as picture:
        values = np.asarray(picture)
    assert values[0, 4] == 4 and values[0, 2] == 10  # left_eye and nose there
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", "zllrunning"), all_classes())
    flags = "--label-order zllrunning", "--prediction-order zllrunning"
    with refuses(tmp_path / "a.png", "official", *flags):
        read_label(tmp_path / "a.png")


def test_greyscale_mask_holds_classes(tmp_path: Path) -> None:
    Image.fromarray(all_classes()).save(tmp_path / "a.png")
    label = read_label(tmp_path / "a.png")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, all_classes())


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_palette_colours_are_mapped(tmp_path: Path, mode: str) -> None:
    classes = np.random.default_rng(1).integers(0, NUM_CLASSES, (9, 13), dtype=np.uint8)
    Image.fromarray(PALETTE[classes]).convert(mode).save(tmp_path / "a.png")
    label = read_label(tmp_path / "a.png")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, classes)


@pytest.mark.parametrize("colour", [(1, 2, 3), (0, 0, 1), (255, 255, 255), (203, 0, 0)])
def test_foreign_colour_is_refused(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    colours = PALETTE[np.ones((4, 4), int)]
    colours[2, 3] = colour
    Image.fromarray(colours).save(tmp_path / "a.png")
    with refuses("a.png", colour, "0..18"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize("value", [19, 37, 254])
def test_value_outside_the_classes_is_refused(tmp_path: Path, value: int) -> None:
    label = all_classes()
    label[1, 2] = value
    write_mask(tmp_path / "x.png", label)
    with refuses("x.png", value, "0..18", "255"):
        read_label(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["1", "I;16", "LA"])
def test_mask_of_another_mode_is_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(all_classes()).convert(mode).save(tmp_path / "a.png")
    with refuses("a.png", f"mode {mode},", "P or L"):
        read_label(tmp_path / "a.png")


def test_truncated_mask_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", NOISE[..., 0] % NUM_CLASSES)
    cut(tmp_path / "a.png")
    with refuses("cannot read", "a.png"):
        read_label(tmp_path / "a.png")


def test_jpeg_is_written_nearly_without_loss(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    write_image(tmp_path / "deep" / "a.jpg", ramp)
    read = np.asarray(read_image(tmp_path / "deep" / "a.jpg")).astype(int)
    assert np.abs(read - ramp).max() <= 4


@pytest.mark.parametrize("bits", [2, 4])
def test_greyscale_masks_of_few_bits_keep_their_classes(tmp_path: Path, bits: int) -> None:
    label = (np.arange(64, dtype=np.uint8) % min(2**bits, NUM_CLASSES)).reshape(8, 8)
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
