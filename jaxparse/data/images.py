"""Pictures on disk: read from any common format, upright and in RGB."""

import io
import logging
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from jaxparse.data.png import PNG_SIGNATURE, require_intact_png
from jaxparse.files import atomic_path, reading, reason, unusable

# What Pillow raises on files that are missing, truncated, damaged or not pictures.
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
READ_ERRORS += (Image.DecompressionBombError, RuntimeError)  # RuntimeError: libavif's

# Pillow opens whatever a file is, and starts Ghostscript on an EPS: only these are opened. Masks
# must be lossless.
PICTURE_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
MASK_FORMATS = ("PNG", "BMP", "TIFF")
JPEG_START = b"\xff\xd8\xff"
# What follows the first 4 bytes: ISO/IEC 23008-12, the brands of pictures and bursts in HEVC.
HEIF_BRANDS = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1"
HEIF_STARTS = tuple(b"ftyp" + brand for brand in HEIF_BRANDS.split())

QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@cache
def available(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the formats that this Pillow can read."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


class PictureError(ValueError):
    """Why a file that is whole cannot be taken for a picture or a mask, and the fix."""


def open_picture(
    path: Path,
    formats: tuple[str, ...] = PICTURE_FORMATS,
    check_png: Callable[[bytes], None] = require_intact_png,
) -> Image.Image:
    """The file, not yet decoded. Raises one of READ_ERRORS if it is damaged or of other formats.

    `check_png` sees the bytes of a PNG first: Pillow would call some damaged ones no pictures.
    """
    data = path.read_bytes()
    if data.startswith(PNG_SIGNATURE):
        check_png(data)
    picture = _identify(io.BytesIO(data), formats)
    if picture.format != "MPO" and (frames := _frames(picture)) > 1:  # MPO: for 3D, or HDR
        _warn_of_frames(path, frames)
    return picture


def _frames(picture: Image.Image) -> int:
    """How many frames or pages there are, up to a damaged one."""
    with suppress(*READ_ERRORS):
        return getattr(picture, "n_frames", 1)
    return 1


@cache
def _warn_of_frames(path: Path, frames: int) -> None:
    """Once for each file."""
    logging.getLogger(__name__).warning("%s has %d frames, of which one is read", path, frames)


def is_animated(path: Path) -> bool:
    """Whether the file is a picture of several frames."""
    with suppress(*READ_ERRORS), _identify(path, PICTURE_FORMATS) as picture:
        return _frames(picture) > 1
    return False


def _identify(source: Path | io.BytesIO, formats: tuple[str, ...]) -> Image.Image:
    """Pillow's picture of a file whose pixels are not yet read. Raises as `open_picture`."""
    try:
        return Image.open(source, formats=available(formats))
    except UnidentifiedImageError as error:
        start = (source.read_bytes() if isinstance(source, Path) else source.getvalue())[:12]
        if not start:
            raise ValueError("the file is empty") from error
        if formats == PICTURE_FORMATS and start[4:] in HEIF_STARTS:
            _register_heif()
            return _identify(source, ("HEIF",))
        if formats == MASK_FORMATS and start.startswith(JPEG_START):
            fix = "is a JPEG, whose compression changes classes: get the lossless mask"
        else:
            fix = "is not a picture: convert or remove it"
        known = formats if formats == MASK_FORMATS else (*PICTURE_FORMATS, "HEIC")
        raise PictureError(f"{fix} ({', '.join(known)})") from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.3g} megapixels: shrink it, or for "
            "predict give a larger --size-limit"
        ) from error


def _register_heif() -> None:
    """Teaches Pillow the pictures of iPhones, which come upright."""
    try:
        from pillow_heif import register_heif_opener  # here: it takes 0.15 s
    except ImportError as error:
        raise PictureError(f"is HEIC, and {unusable('pillow_heif', 'heic', error)}") from error
    register_heif_opener()


def read_image(path: Path) -> Image.Image:
    """The whole picture, mode RGB at its own size, turned upright by its EXIF orientation.

    Greyscale, palette, CMYK and 16-bit pictures are converted; transparent ones are laid over
    white. Raises ValueError if the file cannot be read to its end or its mode has no RGB.
    """
    try:
        with reading(path), open_picture(path) as picture:
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
    except READ_ERRORS as error:
        raise ValueError(unreadable("image", path, error)) from error


def as_picture(source: str | Path | Image.Image | np.ndarray) -> Image.Image:
    """A path, a PIL image or an array uint8 [H, W, 3] or [H, W] as `read_image` gives it.

    Raises ValueError for an array of another kind, and as `read_image` does.
    """
    if isinstance(source, str | Path):
        return read_image(Path(source))
    if isinstance(source, Image.Image):
        return _to_rgb(ImageOps.exif_transpose(source))
    if not hasattr(source, "__array__"):
        raise ValueError(
            f"a {type(source).__name__} is not a picture; expected a path, a PIL image or an array"
        )
    source = np.asarray(source)  # of jax as well
    is_picture = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
    if source.dtype != np.uint8 or not is_picture or not source.size:
        raise ValueError(
            f"an array of {source.dtype} {list(source.shape)} is not a picture; expected uint8 "
            "[height, width, 3] in RGB, 0..255"
        )
    return Image.fromarray(source).convert("RGB")


class Header(NamedTuple):
    """What a file says of its pixels."""

    size: tuple[int, int]  # (height, width) of the upright picture
    orientation: int  # EXIF's, by which it was turned upright; 1 if there is none
    has_palette: bool


def read_header(path: Path, kind: str = "image") -> Header:
    """From the header, without decoding pixels. Raises ValueError; `kind` is for its message."""
    try:
        with reading(path), _identify(path, PICTURE_FORMATS) as picture:
            width, height = picture.size
            orientation, has_palette = _orientation(picture), picture.mode == "P"
    except READ_ERRORS as error:
        raise ValueError(unreadable(kind, path, error)) from error
    size = (width, height) if orientation in QUARTER_TURNS else (height, width)
    return Header(size, orientation, has_palette)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 if there is none."""
    # Not picture.getexif(): for a PNG that decodes all pixels to find the tag behind them.
    return Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling 0..65535 to 0..255.
        values = np.asarray(picture, np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError("has 32-bit pixels, whose range is unknown: convert it to 8 bits")
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif picture.mode == "F":
        raise PictureError(
            "has floating-point pixels, whose range is unknown: convert it to 8 bits"
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def require_match(image: Path, image_header: Header, label: Path, label_header: Header) -> None:
    """Raises ValueError, naming both files, if the mask may not be that of the picture.

    That is if their sizes differ, or only one was turned by its EXIF orientation and the sizes do
    not show whether the other is upright: masks are drawn on pictures as shown, or as stored.
    """
    (height, width), (label_height, label_width) = image_header.size, label_header.size
    if image_header.size != label_header.size:
        raise ValueError(
            f"mask {label} is {label_width}x{label_height} and its image {image} is "
            f"{width}x{height} (width x height); expected equal sizes: resize the mask (nearest "
            "neighbour) or replace it"
        )
    orientations = image_header.orientation, label_header.orientation
    turned = max(orientations)
    if orientations[0] != orientations[1] and (turned not in QUARTER_TURNS or height == width):
        raise ValueError(
            f"image {image} has EXIF orientation {orientations[0]} and its mask {label} "
            f"{orientations[1]} (1: none), so which way up the mask is cannot be known: save both "
            "upright, without the tag"
        )


def unreadable(kind: str, path: Path, error: Exception) -> str:
    """A line on a picture or mask (`kind`) that could not be read, with the fitting advice."""
    if isinstance(error, FileNotFoundError):
        return f"there is no {kind} {path}"
    if isinstance(error, PictureError):
        return f"{kind} {path} {error}"
    if isinstance(error, PermissionError):
        return f"{kind} {path} may not be read by this user; change its permissions"
    return f"cannot read {kind} {path} ({reason(error)}); copy it again or remove it"


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] RGB in the format of the suffix, JPEG at quality 95."""
    assert image.ndim == 3 and image.dtype == np.uint8, (image.shape, image.dtype)
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, quality=95)
