import errno
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data.images import is_animated, read_header, read_image, write_image
from jaxparse.data.masks import read_label
from tests.refusal import refuses

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


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
    assert image.shape == (32, 16, 3) and read_header(path).size == (32, 16)
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


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_image_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, NOISE)
    cut(path)
    with refuses(path, "truncated", "copy it again") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"no picture", "convert"),
        (b"\x89PNG\r\n\x1a\n" + 20 * b"x", "cannot read"),
    ],
)
def test_a_file_that_is_not_a_picture_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, read_label, read_header):
        with refuses(what, path):
            read(path)


def test_missing_and_floating_point_images_are_refused(tmp_path: Path) -> None:
    for read in (read_image, read_label, read_header):
        with refuses("there is no", tmp_path / "none.jpg"):
            read(tmp_path / "none.jpg")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with refuses("float.tif", "floating-point", "8 bits"):
        read_image(tmp_path / "float.tif")


def test_jpeg_is_written_nearly_without_loss(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    write_image(tmp_path / "deep" / "a.jpg", ramp)
    read = np.asarray(read_image(tmp_path / "deep" / "a.jpg")).astype(int)
    assert np.abs(read - ramp).max() <= 4


def test_too_many_pixels_names_limit_and_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_image(path, np.zeros((40, 50, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)  # Pillow refuses twice as many
    for read in (read_image, read_header):
        with refuses(path, "megapixels", "--size-limit"):
            read(path)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    with refuses(tmp_path / "a.png", "permissions"):
        read_image(tmp_path / "a.png")


def test_other_formats_are_not_opened(tmp_path: Path) -> None:
    """An EPS would make Pillow start Ghostscript."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    for read in (read_image, read_label, read_header):
        with refuses(path):
            read(path)


def test_pixels_of_32_bits_have_no_known_range(tmp_path: Path) -> None:
    path = tmp_path / "u.tif"
    Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(path)
    with refuses(path, "32-bit"):
        read_image(path)


def test_heic_is_read_where_its_plug_in_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    picture, path = Image.new("RGB", (64, 48), (200, 30, 60)), tmp_path / "a.heic"
    picture.paste((30, 60, 200), (0, 0, 32, 48))
    pillow_heif.from_pillow(picture).save(path, quality=95)
    assert read_header(path).size == (48, 64)
    read = np.asarray(read_image(path), int)
    assert np.abs(read - np.asarray(picture)).mean() < 3
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with refuses(path, "megapixels", "--size-limit"):
            read_image(path)
    path.write_bytes(path.read_bytes()[:16] + b"x" * 100)
    with refuses(path, "is not a picture"):
        read_image(path)


@pytest.mark.parametrize("brand", ["heic", "heix", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1"])
def test_all_brands_of_heic_are_read(brand: str, tmp_path: Path) -> None:
    """Of single pictures, of bursts and of sequences."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 60))).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:8] + brand.encode() + data[12:])
    assert read_header(path).size == (48, 64)
    assert np.abs(np.asarray(read_image(path), int) - (200, 30, 60)).max() < 9


def test_what_is_no_picture_names_all_formats(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("no picture")
    with refuses(path, "JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF", "HEIC"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif", ".avif"])
def test_frames_that_are_not_read_are_said_once(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"a{suffix}"
    frames = [Image.new("RGB", (40, 30), (40 * index, 0, 0)) for index in range(5)]
    if suffix == ".avif" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    frames[0].save(path, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / f"one{suffix}")
    for name in ("a", "a", "one"):
        assert np.asarray(read_image(tmp_path / f"{name}{suffix}")).max() < 9
    [line] = caplog.messages
    assert str(path) in line and "5 frames" in line
    assert is_animated(path) and not is_animated(tmp_path / f"one{suffix}")


def test_a_camera_s_second_picture_is_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, picture = tmp_path / "a.jpg", Image.new("RGB", (40, 30))
    picture.save(path, "MPO", save_all=True, append_images=[picture])
    assert read_image(path).size == (40, 30) and not caplog.messages


def test_heic_names_the_plug_in_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")
    with refuses(path, 'pip install "jaxparse[heic]"'):
        read_image(path)
