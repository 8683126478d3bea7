"""Masks on disk: read from lossless formats and checked against the classes; written as PNG."""

import logging
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from jaxparse.classes import (
    CELEBAMASK,
    IGNORE_LABEL,
    WHITE,
    Classes,
    becomes,
    convert_label,
    load_classes,
    shipped_tables,
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
TABLE_KEY = "classes"  # of the text in a mask's PNG that names its table
OLDER_KEY, OLDER_NAMES = "label_order", {"official": CELEBAMASK.name}  # of older versions
ZLLRUNNING_CHANNELS = (0, 85, 170, 255)  # of the colours of that tool's pictures


def open_mask(path: Path, formats: tuple[str, ...] = MASK_FORMATS) -> Image.Image:
    """`open_picture`; a PNG's pixels must be as many as its header says."""
    return open_picture(path, formats, require_whole_png)


def read_label(
    path: Path,
    classes: Classes = CELEBAMASK,
    labels_are: Classes | None = None,
    flag: str = "--labels-are",
) -> np.ndarray:
    """The mask, upright as its image, as uint8 [H, W] of `classes` (0..C-1 or 255).

    The file is of the table `labels_are`, if that is another one. Modes P and L hold the classes
    themselves; RGB and RGBA hold the colours of that table, or else of another one that comes with
    the package (alpha is dropped). Raises ValueError on any other mode, value or colour, a damaged
    file, or one that was written in another table, for which it advises `flag`.
    """
    label, table = _read(path, labels_are or classes, classes, flag)
    return convert_label(label, table, classes)


def _read(path: Path, table: Classes, classes: Classes, flag: str) -> tuple[np.ndarray, Classes]:
    """The mask as it is on disk, and the table that it is in: `table`, or by its colours."""
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
        written = _written(picture)
        if picture.mode == "P" and written is None:
            moved = _classes_of_moved_colours(picture, pixels, table)
            if moved is not None:
                _warn_of_moved_colours(path.parent)
                return moved, table
        if written is not None and not _same(written, table):
            raise ValueError(
                f"mask {path} was written in the classes of {written}, expected those of {table}; "
                f"give {flag} {written}"
            )
        return _checked_classes(path, np.array(pixels), table, flag), table
    if picture.mode in ("RGB", "RGBA"):
        colours = pixels[..., :3]
        if (colours == colours[..., :1]).all():  # greyscale, saved as RGB
            return _checked_classes(path, np.array(colours[..., 0]), table, flag), table
        return _classes_of_colours(path, colours, table, classes)
    raise ValueError(
        f"mask {path} has mode {picture.mode}, expected P or L (classes {table.values}) or RGB in "
        "the palette's colours; save it as an 8-bit palette or greyscale PNG"
    )


def _written(picture: Image.Image) -> str | None:
    """The name of the table that the file says it is in."""
    older = picture.info.get(OLDER_KEY)
    return picture.info.get(TABLE_KEY, OLDER_NAMES.get(older, older))


def _same(name: str, table: Classes) -> bool:
    """Whether masks of the table of that name are masks of `table`."""
    shipped = name in shipped_tables() and load_classes(name).names == table.names
    return shipped or name == table.name


def _classes_of_moved_colours(
    picture: Image.Image, pixels: np.ndarray, table: Classes
) -> np.ndarray | None:
    """Classes uint8 [H, W] by colour, if an editor has renumbered the palette; else None.

    That is if every index in use has a class's colour (or white, for ignored pixels), and one of
    them is not at the index of its class.
    """
    entries = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if np.array_equal(entries[: len(table)], table.palette):
        return None  # as most masks are
    used = np.flatnonzero(picture.histogram())
    if used[-1] >= len(entries):
        return None
    known = dict(zip(table.colours, range(len(table)), strict=True)) | {WHITE: IGNORE_LABEL}
    classes = [known.get(tuple(colour)) for colour in entries[used].tolist()]
    # Black and white alone are a binary mask of another tool.
    coloured = any(index not in (None, 0, IGNORE_LABEL) for index in classes)
    if None in classes or not coloured or classes == used.tolist():
        return None
    moved = np.zeros(256, np.uint8)
    moved[used] = classes
    return moved[pixels]


@cache
def _warn_of_moved_colours(folder: Path) -> None:
    """Once for a folder."""
    text = "masks in %s have the palette's colours at other indices (an editor renumbers them)"
    logging.getLogger(__name__).warning(f"{text}: they are read by colour", folder)


@cache
def _warn_of_other_colours(folder: Path, name: str) -> None:
    """Once for a folder and a table."""
    text = "masks in %s are read by the colours of the classes %s"
    logging.getLogger(__name__).warning(text, folder, name)


def _checked_classes(path: Path, label: np.ndarray, table: Classes, flag: str) -> np.ndarray:
    bad = label[(label >= len(table)) & (label != IGNORE_LABEL)]
    if bad.size:
        raise ValueError(
            f"mask {path} holds {bad[0]}, outside {table.values} of the classes {table}; if it is "
            f"in another table, give {flag} NAME or FILE.json, else map its values"
        )
    return label


def _classes_of_colours(
    path: Path, colours: np.ndarray, table: Classes, classes: Classes
) -> tuple[np.ndarray, Classes]:
    """Classes uint8 [H, W] of colours uint8 [H, W, 3], and the table that has all of them."""
    label, foreign = _nearest(colours, table)
    if not len(foreign):
        return label, table
    for other in map(load_classes, shipped_tables()):
        label, unknown = _nearest(colours, other)
        if not len(unknown):
            becomes(other, classes)  # raises if it cannot
            _warn_of_other_colours(path.parent, other.name)
            return label, other
    red, green, blue = foreign[0]
    whose = f"is none of the classes {table}'s"
    if np.isin(foreign, ZLLRUNNING_CHANNELS).all():
        whose = "zllrunning's and yakhyo's face-parsing show (in RGB or BGR, which differ)"
    raise ValueError(
        f"mask {path} holds the colour ({red}, {green}, {blue}), which {whose}; save the "
        "classes themselves as an 8-bit PNG, and give their table with --labels-are"
    )


def _nearest(colours: np.ndarray, table: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Classes uint8 [H, W] of colours uint8 [H, W, 3], and the colours [N, 3] that the table does
    not have."""
    known, codes = _packed(table.palette), _packed(colours)
    order = np.argsort(known)
    nearest = np.minimum(np.searchsorted(known[order], codes), len(table) - 1)
    label = order[nearest].astype(np.uint8)
    return label, colours[known[label] != codes]


def _packed(colours: np.ndarray) -> np.ndarray:
    """One 24-bit integer per colour: uint8 [..., 3] -> int32 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def write_mask(path: Path, label: np.ndarray, classes: Classes = CELEBAMASK) -> None:
    """Writes uint8 [H, W] classes (0..C-1, 255) as a palette PNG that keeps them as the indices.

    The table's name is noted in the file.
    """
    assert label.ndim == 2 and label.dtype == np.uint8, (label.shape, label.dtype)
    # All 256 entries: an index without an entry is an invalid PNG. Ignored pixels show white.
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.palette
    palette[IGNORE_LABEL] = WHITE
    picture = Image.fromarray(label)
    picture.putpalette(palette.tobytes())
    note = PngInfo()
    note.add_text(TABLE_KEY, classes.name)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=note)


def read_pair(
    image_path: Path,
    label_path: Path,
    classes: Classes = CELEBAMASK,
    labels_are: Classes | None = None,
) -> tuple[Image.Image, np.ndarray]:
    """The RGB picture and its mask, uint8 [H, W]: read_image, read_label, and a matching pair."""
    require_match(image_path, read_header(image_path), label_path, read_header(label_path, "mask"))
    return read_image(image_path), read_label(label_path, classes, labels_are)
