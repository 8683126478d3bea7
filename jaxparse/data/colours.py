"""What the colours of masks mean: those of a table, of PASCAL VOC's palette, or nothing.

Palettes of other tools are often no evidence: then the indices are the classes. Which of both holds
is decided once for all masks of a folder.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxparse.classes import IGNORE_LABEL, WHITE, Classes, load_classes, shipped_tables
from jaxparse.classes.palettes import PASCAL

MOST_COLOURS = 256  # of a mask; pictures have more
BINARY = {(0, 0, 0), WHITE}


class Key(NamedTuple):
    """Colours with a meaning."""

    name: str
    table: Classes
    classes: dict[tuple[int, int, int], int]  # of `table`, or 255

    def of(self, look: "Look") -> np.ndarray:
        """Classes int [N] of the colours in use, -1 for those without a meaning."""
        known = self.classes | ({} if look.entries is None else {WHITE: IGNORE_LABEL})
        return np.array([known.get(tuple(colour), -1) for colour in look.colours.tolist()])


@dataclass(frozen=True)
class Look:
    """The colours in use in a mask uint8 [N, 3]; with indices [N] if it may mean those instead."""

    colours: np.ndarray
    indices: np.ndarray | None
    entries: np.ndarray | None = None  # its palette uint8 [≤ 256, 3]

    @classmethod
    def at(cls, picture: Image.Image) -> "Look | None":
        """None if a picture of mode P, RGB or RGBA has no such colours."""
        if picture.mode == "P":
            entries = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
            used = np.flatnonzero(picture.histogram())
            return cls(entries[used], used, entries) if used[-1] < len(entries) else None
        codes = np.unique(packed(np.asarray(picture)[..., :3]))
        if len(codes) > MOST_COLOURS:
            return None
        colours = (codes[:, None] >> (16, 8, 0) & 255).astype(np.uint8)
        grey = (colours == colours[:, :1]).all()  # indices that were saved as RGB
        return cls(colours, colours[:, 0].astype(int) if grey else None)

    def says(self, key: Key) -> bool:
        """Whether all colours have a meaning there, and another one than the indices."""
        classes = key.of(self)
        if self.indices is None or (classes < 0).any():
            return bool((classes >= 0).all())
        if self.entries is not None and set(map(tuple, self.colours.tolist())) <= BINARY:
            return False  # a binary mask of another tool
        coloured = bool(set(classes.tolist()) - {0, IGNORE_LABEL})
        return coloured and not np.array_equal(classes, key.table.class_of_value[self.indices])

    def is_foreign(self, keys: Sequence[Key]) -> bool:
        """Whether it may mean its indices, and none of the keys has all its colours."""
        return self.indices is not None and all((key.of(self) < 0).any() for key in keys)

    def in_order(self, table: Classes) -> bool:
        """Whether the palette begins as the table's, or is PASCAL's: then the indices count."""
        if self.entries is None:
            return False
        shared = min(len(self.entries), len(PASCAL))
        pascal = np.array_equal(self.entries[:shared], np.array(PASCAL[:shared]))
        return pascal or np.array_equal(self.entries[: len(table)], table.palette)


def keys_of(table: Classes) -> list[Key]:
    """The meanings of colours in masks of the table: its own, and PASCAL's, of its values."""
    own = dict(zip(table.colours, range(len(table)), strict=True))
    values = table.class_of_value.tolist()
    pascal = {colour: index for colour, index in zip(PASCAL, values, strict=True) if index >= 0}
    return [Key(f"the classes {table}", table, own), Key("PASCAL's palette", table, pascal)]


def chosen_key(looks: Iterable[Look], table: Classes) -> Key | None:
    """The key to masks that look so, with which most can be read; None: their indices count.

    Indices count as soon as one mask has colours that mean nothing. Masks without indices may also
    be in the colours of a table that comes with the package.
    """
    looks, keys = [look for look in looks if not look.in_order(table)], keys_of(table)
    colourful = [look for look in looks if look.indices is None]
    if not colourful and any(look.is_foreign(keys) for look in looks):
        return None
    others = map(load_classes, shipped_tables()) if colourful else ()
    keys += [Key(f"the classes {other}", other, keys_of(other)[0].classes) for other in others]
    votes = [sum(look.says(key) for look in looks) for key in keys]
    return keys[votes.index(max(votes))] if max(votes) or colourful else None


def packed(colours: np.ndarray) -> np.ndarray:
    """One 24-bit integer per colour: uint8 [..., 3] -> int32 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue
