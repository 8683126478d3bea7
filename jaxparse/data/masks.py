"""Masks on disk: read from lossless formats and checked against the classes; written as PNG."""

import json
import logging
from dataclasses import replace
from functools import cache, lru_cache
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
    classes_named,
    convert_label,
    load_classes,
    shipped_tables,
)
from jaxparse.data.colours import MOST_COLOURS, Key, Look, chosen_key, keys_of, packed
from jaxparse.data.folders import MASK_SUFFIXES
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
from jaxparse.files import atomic_path, brief, reading

# Greyscale of 2 and 4 bits: Pillow multiplies the values by these factors to fill 0..255.
STRETCHED = {"L;2": 85, "L;4": 17}
# Of the texts in a mask's PNG that name its table, and its classes.
TABLE_KEY, NAMES_KEY = "classes", "class_names"
SAMPLE = 16  # masks of a folder by which its colours are judged
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
    themselves, or the table's `values`; RGB and RGBA hold the colours of that table, of PASCAL's
    palette, or else of another table that comes with the package (alpha is dropped). Raises
    ValueError on any other mode, value or colour, a damaged file, or one that was written in
    another table, for which it advises `flag`.
    """
    label, table = _read(path, labels_are or classes, classes, flag)
    return convert_label(label, table, classes)


def _read(path: Path, table: Classes, classes: Classes, flag: str) -> tuple[np.ndarray, Classes]:
    """The mask as it is on disk, and the table that it is in: `table`, or by its colours."""
    picture = _opened(path)
    if picture.mode not in ("P", "L", "RGB", "RGBA"):
        raise ValueError(
            f"mask {path} has mode {picture.mode}, expected P or L (classes "
            f"{table.values_in_words}) or RGB in the palette's colours; save it as an 8-bit "
            "palette or greyscale PNG"
        )
    pixels = np.array(picture)
    if pixels.ndim == 2 and _require_written_in(path, picture, table, flag):
        return _of_values(path, pixels, replace(table, values=()), flag), table
    look = None if picture.mode == "L" else Look.at(picture)
    key = look and _key(path, look, table)
    if key:
        becomes(key.table, classes)  # raises if it cannot
        return _of_colours(path, pixels, look, key, flag), key.table
    if pixels.ndim == 3 and look is None:
        raise ValueError(
            f"mask {path} holds more than {MOST_COLOURS} colours: it is a photograph, or was "
            "resized with interpolation; resize masks by nearest neighbour, and save the classes "
            "as an 8-bit PNG"
        )
    return _of_values(path, pixels if pixels.ndim == 2 else pixels[..., 0], table, flag), table


def _opened(path: Path) -> Image.Image:
    """The picture, upright; greyscale of few bits with the values that the file holds."""
    try:
        with reading(path), open_mask(path) as picture:
            raw_mode = picture.tile[0].args if picture.tile else None
            picture.load()
            picture = ImageOps.exif_transpose(picture)
    except READ_ERRORS as error:
        raise ValueError(unreadable("mask", path, error)) from error
    if raw_mode in STRETCHED:
        picture = picture.point(lambda value: value // STRETCHED[raw_mode])
    return picture


def _written(picture: Image.Image) -> str | None:
    """The name of the table that the file says it is in."""
    older = picture.info.get(OLDER_KEY)
    return picture.info.get(TABLE_KEY, OLDER_NAMES.get(older, older))


def _require_written_in(path: Path, picture: Image.Image, table: Classes, flag: str) -> bool:
    """Whether the file says which classes it holds. Raises ValueError if those are others.

    It holds their names; files of older versions only that of the table.
    """
    if (name := _written(picture)) is None:
        return False
    names = picture.info.get(NAMES_KEY)
    shipped = load_classes(name).names if name in shipped_tables() else None
    theirs = tuple(names.split(",")) if names else shipped
    if theirs == table.names or (theirs is None and name == table.name):
        return True
    listed = f" ({brief(', '.join(theirs))})" if theirs else ""
    ours = f" ({brief(', '.join(table.names))})" if theirs and name == table.name else ""
    known = theirs and classes_named(theirs)
    if known and known.names == theirs:
        fix = f"{flag} {known}"
    else:
        fix = f"{flag} FILE.json, the file of the table {brief(name)}"
    raise ValueError(
        f"mask {path} was written in the classes of {brief(name)}{listed}, expected those of "
        f"{table}{ours}; give {fix}"
    )


def _key(path: Path, look: Look, table: Classes) -> Key | None:
    """The key to the colours of the mask; None if its indices count.

    It is that of all masks of the folder with palettes, or of all without. Where their sample tells
    nothing, the mask's own colours do.
    """
    if look.in_order(table):
        return None
    folder = path.parent
    looks = _sampled(folder, folder.stat().st_mtime_ns)
    looks = [each for each in looks if (each.entries is None) == (look.entries is None)]
    key, keys = chosen_key(looks, table), keys_of(table)
    if key is None and (look.indices is None or not any(each.is_foreign(keys) for each in looks)):
        looks, key = [look], chosen_key([look], table)
    if key is None and any(each.says(own) for own in keys for each in looks):
        _warn(folder, "their indices: the colours of some are those of no class")
    elif key and (key.name != keys[0].name or any(each.entries is not None for each in looks)):
        _warn(folder, f"the colours of {key.name}, not by their indices")
    return key


@lru_cache(64)
def _sampled(folder: Path, changed: int) -> tuple[Look, ...]:
    """How SAMPLE masks look, spread evenly; again after the folder has changed."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in MASK_SUFFIXES)
    chosen = {paths[i] for i in np.linspace(0, len(paths) - 1, SAMPLE).round().astype(int)}
    return tuple(look for look in map(_look_at, sorted(chosen)) if look)


def _look_at(path: Path) -> Look | None:
    """None for files that cannot be read, say which classes they hold, or have no colours."""
    try:
        picture = _opened(path)
    except ValueError:
        return None
    coloured = picture.mode in ("P", "RGB", "RGBA") and _written(picture) is None
    return Look.at(picture) if coloured else None


@cache
def _warn(folder: Path, how: str) -> None:
    """Once for a folder and a way to read it."""
    logging.getLogger(__name__).warning("masks in %s are read by %s", folder, how)


def _of_values(path: Path, values: np.ndarray, table: Classes, flag: str) -> np.ndarray:
    """Classes uint8 [H, W] of the values uint8 [H, W] in the file."""
    if table.values:
        wrong = table.class_of_value[values] < 0
    else:  # a third of the time
        wrong = (values >= len(table)) & (values != IGNORE_LABEL)
    if wrong.any():
        bad = np.unique(values[wrong]).tolist()
        example = json.dumps({str(bad[0]): table.names[-1]})
        raise ValueError(
            f"mask {path} holds {brief(', '.join(map(str, bad)))}, outside {table.values_in_words} "
            f"of the classes {table}; if it is in another table, give {flag} NAME or FILE.json; a "
            f'table\'s file can say what each value means, as "values": {example}'
        )
    return table.class_of_value.astype(np.uint8)[values] if table.values else values


def _of_colours(path: Path, pixels: np.ndarray, look: Look, key: Key, flag: str) -> np.ndarray:
    """Classes uint8 [H, W] of a mask that looks so, by the key."""
    classes = key.of(look)
    if (classes < 0).any():
        foreign = look.colours[classes < 0]
        red, green, blue = foreign[0].tolist()
        whose = f"is none of {key.name}"
        if np.isin(foreign, ZLLRUNNING_CHANNELS).all():
            whose = "zllrunning's and yakhyo's face-parsing show (in RGB or BGR, which differ)"
        raise ValueError(
            f"mask {path} holds the colour ({red}, {green}, {blue}), which {whose}; save the "
            f"classes themselves as an 8-bit PNG, and give their table with {flag}, or give the "
            'colours in its file, as "colours"'
        )
    if pixels.ndim == 2:
        moved = np.zeros(256, np.uint8)
        moved[look.indices] = classes
        return moved[pixels]
    places = np.searchsorted(packed(look.colours), packed(pixels[..., :3]))
    return classes.astype(np.uint8)[places]


def write_mask(path: Path, label: np.ndarray, classes: Classes = CELEBAMASK) -> None:
    """Writes uint8 [H, W] classes (0..C-1, 255) as a palette PNG that keeps them as the indices.

    The table's name and those of its classes are noted in the file.
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
    note.add_text(NAMES_KEY, ",".join(classes.names))
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
