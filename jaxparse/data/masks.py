"""Masks on disk: read from lossless formats and checked against the classes; written as PNG."""

import logging
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from jaxparse.classes import (
    IGNORE_LABEL,
    LABEL_ORDERS,
    NUM_CLASSES,
    PALETTE,
    from_official,
    to_official,
)
from jaxparse.data.images import (
    MASK_FORMATS,
    READ_ERRORS,
    open_picture,
    read_header,
    read_image,
    require_match,
    unreadable,
)
from jaxparse.data.png import require_whole_png
from jaxparse.files import atomic_path, reading

# Greyscale of 2 and 4 bits: Pillow multiplies the values by these factors to fill 0..255.
STRETCHED = {"L;2": 85, "L;4": 17}
ORDER_KEY = "label_order"  # of the text in a mask's PNG that names its order
ZLLRUNNING_CHANNELS = (0, 85, 170, 255)  # of the colours of that tool's pictures
WHITE = 0xFFFFFF  # of ignored pixels in masks


def open_mask(path: Path, formats: tuple[str, ...] = MASK_FORMATS) -> Image.Image:
    """`open_picture`; a PNG's pixels must be as many as its header says."""
    return open_picture(path, formats, require_whole_png)


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
        raise ValueError(unreadable("mask", path, error)) from error
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


def read_pair(
    image_path: Path, label_path: Path, order: str = "official"
) -> tuple[Image.Image, np.ndarray]:
    """The RGB picture and its mask, uint8 [H, W]: read_image, read_label, and a matching pair."""
    require_match(image_path, read_header(image_path), label_path, read_header(label_path, "mask"))
    return read_image(image_path), read_label(label_path, order)
