"""Tables of classes: names, colours, left/right pairs, and how masks of other tables become theirs.

A table is a short JSON file (docs/classes.md); those beside this module have names of their own:
`celebamask` is CelebAMask-HQ's (Lee et al. 2020, "MaskGAN", arXiv:1907.11922), `zllrunning` and
`facer` are the same classes in other orders: left and right are the person's own, so that the left
eye is on the right of a picture. `lapa` and `helen` are those of other data sets, which do not say.
"""

from collections.abc import Sequence

from jaxparse.classes.palettes import WHITE
from jaxparse.classes.reading import classes_json, load_classes, parse_classes, shipped_tables
from jaxparse.classes.spelling import spellings
from jaxparse.classes.table import (
    IGNORE_LABEL,
    Classes,
    becomes,
    convert_label,
    exchange_sides,
    path_between,
)

__all__ = [
    "CELEBAMASK",
    "IGNORE_LABEL",
    "WHITE",
    "Classes",
    "becomes",
    "classes_json",
    "classes_named",
    "convert_label",
    "exchange_sides",
    "load_classes",
    "orders_of",
    "parse_classes",
    "shipped_tables",
]

CELEBAMASK = load_classes("celebamask")


def orders_of(classes: Classes) -> dict[str, tuple[int, ...]]:
    """Shipped tables of the same classes: name -> for each of their classes its index here."""
    tables = {name: path_between(load_classes(name), classes) for name in shipped_tables()}
    every = list(range(len(classes)))
    return {name: found for name, found in tables.items() if sorted(found or ()) == every}


def classes_named(names: Sequence[str]) -> Classes | None:
    """The table that comes with the package whose names these are, in any usual spelling."""
    spelt = spellings(names)
    tables = map(load_classes, reversed(shipped_tables()))  # lapa before helen, of the same names
    return next((table for table in tables if list(table.names) == spelt), None)
