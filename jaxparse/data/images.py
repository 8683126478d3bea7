"""Pictures and masks on disk: read any common format, write palette PNGs."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from jaxparse.classes import (
    IGNORE_LABEL,
    LABEL_ORDERS,
    NUM_CLASSES,
    PALETTE,
    from_official,
    to_official,
)
from jaxparse.files import atomic_path, reason

# What Pillow raises on files that are missing, truncated, damaged or not pictures.
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
READ_ERRORS += (Image.DecompressionBombError,)

# Greyscale of 2 and 4 bits: Pillow multiplies the values by these factors to fill 0..255.
STRETCHED = {"L;2": 85, "L;4": 17}
ORDER_KEY = "label_order"  # of the text in a mask's PNG that names its order
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def read_image(path: Path) -> Image.Image:
    """The whole picture, mode RGB at its own size, turned upright by its EXIF orientation.

    Greyscale, palette, CMYK and 16-bit pictures are converted; transparent ones are laid over
    white. Raises ValueError if the file cannot be read to its end or its mode has no RGB.
    """
    try:
        with Image.open(path) as picture:
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
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"an array of {source.dtype} {list(source.shape)} is not a picture; expected uint8 "
            "[height, width, 3] in RGB, 0..255"
        )
    return Image.fromarray(source).convert("RGB")


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from the header alone. Raises ValueError."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            # Not picture.getexif(): for a PNG that decodes all pixels to find the tag behind them.
            orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except READ_ERRORS as error:
        raise ValueError(_unreadable("image", path, error)) from error
    return (width, height) if orientation in QUARTER_TURNS else (height, width)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling 0..65535 to 0..255.
        values = np.clip(np.asarray(picture, np.int64), 0, 65535)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown: convert them to 8 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def read_label(path: Path, order: str = "official") -> np.ndarray:
    """The mask, upright as its image, as uint8 [H, W] of classes 0..18 or 255.

    Modes P and L hold the classes themselves, numbered by `order` (of classes.LABEL_ORDERS); RGB
    and RGBA must hold the palette's colours only (alpha is dropped). Raises ValueError on any other
    mode, value or colour, a damaged file, or one that was written in another order.
    """
    try:
        with Image.open(path) as picture:
            raw_mode = picture.tile[0].args if picture.tile else None
            picture.load()
            picture = ImageOps.exif_transpose(picture)
    except READ_ERRORS as error:
        raise ValueError(_unreadable("mask", path, error)) from error
    if raw_mode in STRETCHED:
        picture = picture.point(lambda value: value // STRETCHED[raw_mode])
    if picture.mode in ("P", "L"):
        written = picture.info.get(ORDER_KEY, order)
        if written != order:
            raise ValueError(
                f"mask {path} was written in the order {written}, expected {order}; give "
                f"--label-order {written}, or for predictions --prediction-order {written}"
            )
        return to_official(_checked_classes(path, np.array(picture)), order)
    if picture.mode in ("RGB", "RGBA"):
        return _colours_to_classes(path, np.asarray(picture)[..., :3])
    raise ValueError(
        f"mask {path} has mode {picture.mode}, expected P or L (classes 0..18 and 255) or RGB in "
        "the palette's colours; save it as an 8-bit palette or greyscale PNG"
    )


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
        raise ValueError(
            f"mask {path} holds the colour ({red}, {green}, {blue}), which is not in the palette "
            "of jaxparse/classes.py; save the classes 0..18 themselves as an 8-bit PNG"
        )
    return label


def _packed(colours: np.ndarray) -> np.ndarray:
    """One 24-bit integer per colour: uint8 [..., 3] -> int32 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def read_pair(
    image_path: Path, label_path: Path, order: str = "official"
) -> tuple[Image.Image, np.ndarray]:
    """The RGB picture and its mask, uint8 [H, W]: read_image, read_label, and of equal size."""
    image, label = read_image(image_path), read_label(label_path, order)
    require_equal_sizes(image_path, image.size[::-1], label_path, label.shape)
    return image, label


def require_equal_sizes(
    image: Path, image_size: tuple[int, int], label: Path, label_size: tuple[int, int]
) -> None:
    """Raises ValueError naming both files if their (height, width) differ."""
    if image_size != label_size:
        raise ValueError(
            f"mask {label} is {label_size[1]}x{label_size[0]} and its image {image} is "
            f"{image_size[1]}x{image_size[0]} (width x height); expected equal sizes: resize the "
            "mask (nearest neighbour) or replace it"
        )


def _unreadable(kind: str, path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {kind} {path}"
    return f"cannot read {kind} {path} ({reason(error)}); copy it again, convert it or remove it"


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
