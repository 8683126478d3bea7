"""Pictures and masks on disk: read any common format, write palette PNGs."""

import io
import logging
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from jaxparse.classes import (
    IGNORE_LABEL,
    LABEL_ORDERS,
    NUM_CLASSES,
    PALETTE,
    from_official,
    to_official,
)
from jaxparse.data.png import PNG_SIGNATURE, require_intact_png, require_whole_png
from jaxparse.files import atomic_path, reading, reason

# What Pillow raises on files that are missing, truncated, damaged or not pictures.
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
READ_ERRORS += (Image.DecompressionBombError, RuntimeError)  # RuntimeError: libavif's

# Pillow opens whatever a file is, and starts Ghostscript on an EPS: only these are opened. Masks
# must be lossless.
PICTURE_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
MASK_FORMATS = ("PNG", "BMP", "TIFF")
JPEG_START = b"\xff\xd8\xff"

# Greyscale of 2 and 4 bits: Pillow multiplies the values by these factors to fill 0..255.
STRETCHED = {"L;2": 85, "L;4": 17}
ORDER_KEY = "label_order"  # of the text in a mask's PNG that names its order
ZLLRUNNING_CHANNELS = (0, 85, 170, 255)  # of the colours of that tool's pictures
WHITE = 0xFFFFFF  # of ignored pixels in masks
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@cache
def available(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the formats that this Pillow can read."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


class PictureError(ValueError):
    """Why a file that is whole cannot be taken for a picture or a mask, and the fix."""


def open_picture(path: Path, formats: tuple[str, ...] = PICTURE_FORMATS) -> Image.Image:
    """The file, not yet decoded. Raises one of READ_ERRORS if it is damaged or of other formats."""
    return _open_bytes(path.read_bytes(), formats)


def _open_bytes(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    if data.startswith(PNG_SIGNATURE):
        require_intact_png(data)
    return _identify(io.BytesIO(data), formats)


def _identify(source: Path | io.BytesIO, formats: tuple[str, ...]) -> Image.Image:
    """Pillow's picture of a file whose pixels are not yet read. Raises as `open_picture`."""
    try:
        return Image.open(source, formats=available(formats))
    except UnidentifiedImageError as error:
        start = source.read_bytes()[:3] if isinstance(source, Path) else source.getvalue()[:3]
        if not start:
            raise ValueError("the file is empty") from error
        if formats == MASK_FORMATS and start == JPEG_START:
            fix = "is a JPEG, whose compression changes classes: get the lossless mask"
        else:
            fix = "is not a picture: convert or remove it"
        raise PictureError(f"{fix} ({', '.join(formats)})") from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels: shrink it, or for "
            "predict give a larger --size-limit"
        ) from error


def open_mask(path: Path, formats: tuple[str, ...] = MASK_FORMATS) -> Image.Image:
    """`open_picture`; a PNG's pixels must be as many as its header says."""
    data = path.read_bytes()
    picture = _open_bytes(data, formats)
    if picture.format == "PNG":
        require_whole_png(data)
    return picture


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
        raise ValueError(_unreadable("image", path, error)) from error


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


def read_header(path: Path, kind: str = "image") -> Header:
    """From the header, without decoding pixels. Raises ValueError; `kind` is for its message."""
    try:
        with reading(path), _identify(path, PICTURE_FORMATS) as picture:
            width, height = picture.size
            orientation = _orientation(picture)
    except READ_ERRORS as error:
        raise ValueError(_unreadable(kind, path, error)) from error
    size = (width, height) if orientation in QUARTER_TURNS else (height, width)
    return Header(size, orientation)


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


def read_label(path: Path, order: str = "official", flag: str = "--label-order") -> np.ndarray:
    """The mask, upright as its image, as uint8 [H, W] of classes 0..18 or 255.

    Modes P and L hold the classes themselves, numbered by `order` (of classes.LABEL_ORDERS); RGB
    and RGBA must hold the palette's colours only (alpha is dropped). Raises ValueError on any other
    mode, value or colour, a damaged file, or one that was written in another order, for which it
    advises `flag`.
    """
    try:
        with reading(path), open_mask(path) as picture:
            raw_mode = picture.tile[0].args if picture.tile else None
            picture.load()
            picture = ImageOps.exif_transpose(picture)
    except READ_ERRORS as error:
        raise ValueError(_unreadable("mask", path, error)) from error
    if raw_mode in STRETCHED:
        picture = picture.point(lambda value: value // STRETCHED[raw_mode])
    pixels = np.asarray(picture)
    if picture.mode in ("P", "L"):
        written = picture.info.get(ORDER_KEY)
        if picture.mode == "P" and written is None:
            moved = _classes_of_moved_colours(picture, pixels)
            if moved is not None:
                _warn_of_moved_colours(path.parent)
                return moved
        if written not in (order, None):
            raise ValueError(
                f"mask {path} was written in the order {written}, expected {order}; give "
                f"{flag} {written}"
            )
        return to_official(_checked_classes(path, np.array(pixels)), order)
    if picture.mode in ("RGB", "RGBA"):
        colours = pixels[..., :3]
        if (colours == colours[..., :1]).all():  # greyscale, saved as RGB
            return to_official(_checked_classes(path, np.array(colours[..., 0])), order)
        return _colours_to_classes(path, colours)
    raise ValueError(
        f"mask {path} has mode {picture.mode}, expected P or L (classes 0..18 and 255) or RGB in "
        "the palette's colours; save it as an 8-bit palette or greyscale PNG"
    )


def _classes_of_moved_colours(picture: Image.Image, pixels: np.ndarray) -> np.ndarray | None:
    """Classes uint8 [H, W] by colour, if an editor has renumbered the palette; else None.

    That is if every index in use has a class's colour (or white, for ignored pixels), and one of
    them is not at the index of its class.
    """
    entries = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if np.array_equal(entries[:NUM_CLASSES], PALETTE):
        return None  # as most masks are
    used = np.flatnonzero(picture.histogram())
    if used[-1] >= len(entries):
        return None
    known = {int(code): index for index, code in enumerate(_packed(PALETTE))}
    known[WHITE] = IGNORE_LABEL
    classes = [known.get(int(code)) for code in _packed(entries[used])]
    # Black and white alone are a binary mask of another tool.
    coloured = any(index not in (None, 0, IGNORE_LABEL) for index in classes)
    if None in classes or not coloured or classes == used.tolist():
        return None
    table = np.zeros(256, np.uint8)
    table[used] = classes
    return table[pixels]


@cache
def _warn_of_moved_colours(folder: Path) -> None:
    """Once for a folder."""
    text = "masks in %s have the palette's colours at other indices (an editor renumbers them)"
    logging.getLogger(__name__).warning(f"{text}: they are read by colour", folder)


def _checked_classes(path: Path, label: np.ndarray) -> np.ndarray:
    bad = label[(label >= NUM_CLASSES) & (label != IGNORE_LABEL)]
    if bad.size:
        raise ValueError(
            f"mask {path} holds {bad[0]}, outside 0..{NUM_CLASSES - 1} and {IGNORE_LABEL}; map "
            "its values to the classes of jaxparse/classes.py"
        )
    return label


def _colours_to_classes(path: Path, colours: np.ndarray) -> np.ndarray:
    """Classes uint8 [H, W] of palette colours uint8 [H, W, 3]."""
    known = _packed(PALETTE)
    order = np.argsort(known)
    codes = _packed(colours)
    nearest = np.minimum(np.searchsorted(known[order], codes), NUM_CLASSES - 1)
    label = order[nearest].astype(np.uint8)
    foreign = colours[known[label] != codes]  # [N, 3]
    if len(foreign):
        red, green, blue = foreign[0]
        whose = "is not in the palette of jaxparse/classes.py"
        if np.isin(foreign, ZLLRUNNING_CHANNELS).all():
            whose = "zllrunning's and yakhyo's face-parsing show (in RGB or BGR, which differ)"
        raise ValueError(
            f"mask {path} holds the colour ({red}, {green}, {blue}), which {whose}; save the "
            "classes 0..18 themselves as an 8-bit PNG, and give their --label-order"
        )
    return label


def _packed(colours: np.ndarray) -> np.ndarray:
    """One 24-bit integer per colour: uint8 [..., 3] -> int32 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def read_pair(
    image_path: Path, label_path: Path, order: str = "official"
) -> tuple[Image.Image, np.ndarray]:
    """The RGB picture and its mask, uint8 [H, W]: read_image, read_label, and a matching pair."""
    require_match(image_path, read_header(image_path), label_path, read_header(label_path, "mask"))
    return read_image(image_path), read_label(label_path, order)


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


def _unreadable(kind: str, path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {kind} {path}"
    if isinstance(error, PictureError):
        return f"{kind} {path} {error}"
    if isinstance(error, PermissionError):
        return f"{kind} {path} may not be read by this user; change its permissions"
    return f"cannot read {kind} {path} ({reason(error)}); copy it again or remove it"


def write_mask(path: Path, label: np.ndarray, order: str = "official") -> None:
    """Writes uint8 [H, W] classes (0..18, 255) as a palette PNG that keeps them as the indices.

    The indices are numbered by `order`, which is noted in the file; the colours stay the same.
    """
    assert label.ndim == 2 and label.dtype == np.uint8, (label.shape, label.dtype)
    # All 256 entries: an index without an entry is an invalid PNG. Ignored pixels show white.
    palette = np.zeros((256, 3), np.uint8)
    palette[:NUM_CLASSES] = PALETTE[list(LABEL_ORDERS[order])]
    palette[IGNORE_LABEL] = 255
    picture = Image.fromarray(from_official(label, order))
    picture.putpalette(palette.tobytes())
    note = PngInfo()
    note.add_text(ORDER_KEY, order)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=note)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] RGB in the format of the suffix, JPEG at quality 95."""
    assert image.ndim == 3 and image.dtype == np.uint8, (image.shape, image.dtype)
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, quality=95)
