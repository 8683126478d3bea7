"""Tables of classes: names, colours, left/right pairs, and how masks of other tables become theirs.

A table is a short JSON file (docs/classes.md); those beside this module have names of their own:
`celebamask` is CelebAMask-HQ's (Lee et al. 2020, "MaskGAN", arXiv:1907.11922), `zllrunning` and
`facer` are the same classes in other orders: left and right are the person's own, so that the left
eye is on the right of a picture. `lapa` and `helen` are those of other data sets, which do not say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxparse.classes.spelling import halves, spellings
from jaxparse.files import brief, read_json

IGNORE_LABEL = 255  # pixels that neither the loss nor the metrics count
MOST_CLASSES = IGNORE_LABEL  # 0..254
WHITE = (255, 255, 255)  # the colour of ignored pixels
REST = "*"  # in a file's "from": the classes that are not named
KEYS = {"name", "names", "colours", "pairs", "weights", "from", "tables"}


@dataclass(frozen=True)
class Classes:
    """A table of C classes. Two are equal if masks of one are masks of the other."""

    name: str = field(compare=False)
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] = field(compare=False)  # RGB, 0..255
    pairs: tuple[tuple[int, int], ...] = ()  # indices that a mirror image exchanges: left, right
    weights: tuple[float, ...] = ()  # in cross-entropy; none: all 1
    # Tables whose masks become this one's: for each of their classes its index here, or 255.
    sources: tuple[tuple["Classes", tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        return self.name

    def index(self, name: str) -> int:
        """The class of that name. Raises ValueError, listing the names, if there is none."""
        if name not in self.names:
            raise ValueError(f"there is no class {brief(name)}; there are: {', '.join(self.names)}")
        return self.names.index(name)

    @cached_property
    def palette(self) -> np.ndarray:
        """The colours, uint8 [C, 3]."""
        return np.array(self.colours, np.uint8)

    @cached_property
    def mirrored(self) -> np.ndarray:
        """What each class becomes in a mirror image, [C]."""
        classes = np.arange(len(self))
        for left, right in self.pairs:
            classes[[left, right]] = right, left
        return classes

    @property
    def values(self) -> str:
        """The values of masks, in words."""
        return f"0..{len(self) - 1} and {IGNORE_LABEL}"


def becomes(source: Classes, target: Classes) -> tuple[int, ...]:
    """For each class of `source` its class in `target`, or 255 if its pixels are ignored there.

    Raises ValueError if masks of `source` cannot become those of `target`.
    """
    if (found := _path(source, target)) is None:
        raise ValueError(
            f"the classes of {source.name} cannot become those of {target.name}: say how in its "
            f'file, under "from": {{"{source.name}": ...}} (docs/classes.md)'
        )
    return found


def _path(source: Classes, target: Classes) -> tuple[int, ...] | None:
    if source.names == target.names:
        return tuple(range(len(source)))
    for table, places in target.sources:
        if (inner := _path(source, table)) is not None:
            return _chained(inner, places)
    for table, places in source.sources:  # back again, where nothing was merged
        outer = _path(table, target) if sorted(places) == list(range(len(table))) else None
        if outer is not None:
            return _chained(tuple(np.argsort(places).tolist()), outer)
    return None


def _chained(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(IGNORE_LABEL if index == IGNORE_LABEL else second[index] for index in first)


@cache
def lookup(source: Classes, target: Classes) -> np.ndarray:
    """uint8 [256]: value in a mask of `source` -> in one of `target`. Raises as `becomes` does."""
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[: len(source)] = becomes(source, target)
    return table


def convert_label(label: np.ndarray, source: Classes, target: Classes) -> np.ndarray:
    """A mask uint8 [H, W] of `source` -> of `target`."""
    return label if source.names == target.names else lookup(source, target)[label]


def exchange_sides(label: np.ndarray, classes: Classes) -> np.ndarray:
    """A mask uint8 [H, W] with left and right exchanged; nothing moves."""
    table = np.arange(256, dtype=np.uint8)
    table[: len(classes)] = classes.mirrored
    return table[label]


def orders_of(classes: Classes) -> dict[str, tuple[int, ...]]:
    """Shipped tables of the same classes: name -> for each of their classes its index here."""
    tables = {name: _path(load_classes(name), classes) for name in shipped_tables()}
    every = list(range(len(classes)))
    return {name: found for name, found in tables.items() if sorted(found or ()) == every}


def shipped_tables() -> list[str]:
    """The names of the tables that come with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.json"))


def classes_named(names: Sequence[str]) -> Classes | None:
    """The table that comes with the package whose names these are, in any usual spelling."""
    spelt = spellings(names)
    tables = map(load_classes, reversed(shipped_tables()))  # lapa before helen, of the same names
    return next((table for table in tables if list(table.names) == spelt), None)


def load_classes(table: str | Path | Classes) -> Classes:
    """The table of a name such as celebamask, or of a .json file; a table is itself.

    Raises ValueError, naming the file and what is wrong, if it holds none.
    """
    if isinstance(table, Classes):
        return table
    if str(table) in shipped_tables():
        return _shipped(str(table))
    path = Path(table)
    if path.suffix != ".json" or not path.is_file():
        known = ", ".join(shipped_tables())
        raise ValueError(
            f"there are no classes {table}; give a .json file (docs/classes.md) or: {known}"
        )
    return parse_classes(read_json(path), path.stem, path)


@cache
def _shipped(name: str) -> Classes:
    path = Path(__file__).with_name(f"{name}.json")
    return parse_classes(read_json(path), name, path)


def parse_classes(data: Any, name: str, path: str | Path) -> Classes:  # noqa: ANN401
    """The table that the file at `path` holds as JSON. Raises ValueError, naming `path`."""
    try:
        return _parsed(data, name, Path(path).parent)
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no table of classes ({error}); docs/classes.md shows one"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(data: dict[str, Any], name: str, folder: Path) -> Classes:
    if unknown := data.keys() - KEYS:
        raise ValueError(f"unknown key {brief(min(unknown))}; there are: {', '.join(sorted(KEYS))}")
    names = tuple(data.get("names", ()))
    _require_names(names)
    tables = data.get("tables", {})

    def table(key: str) -> Classes:
        if key in tables:
            return parse_classes(tables[key], key, folder / f"{key}.json")
        return load_classes(folder / key if key.endswith(".json") else key)

    sources = tuple(
        (source, _places(source, given, names))
        for source, given in ((table(key), given) for key, given in data.get("from", {}).items())
    )
    pairs = [tuple(pair) for pair in data["pairs"]] if "pairs" in data else halves(names)[0]
    return Classes(
        str(data.get("name", name)),
        names,
        _colours(data.get("colours"), names, sources),
        _pairs(pairs, names),
        _weights(data.get("weights", {}), names),
        sources,
    )


def _require_names(names: tuple[str, ...]) -> None:
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(f'"names" are {len(names)}; give 2 to {MOST_CLASSES}')
    for each in names:
        if not isinstance(each, str) or not each.strip() or set(each) & set(",=/*\n"):
            raise ValueError(f'"names" holds {brief(repr(each))}; give a word without , = / *')
    if len(set(names)) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise ValueError(f'"names" holds {brief(twice)} twice')


def _known(key: str, each: str | None, names: tuple[str, ...]) -> int:
    if each not in names:
        shown = ", ".join(names)
        raise ValueError(f'"{key}" names {brief(str(each))}, which is none of {brief(shown)}')
    return names.index(each)


def _places(
    source: Classes, given: dict[str, str | None], names: tuple[str, ...]
) -> tuple[int, ...]:
    """For each class of `source` its index here: as `given`, or that of the same name."""
    for each in given.keys() - {REST}:
        _known("from", each, source.names)
    places = []
    for each in source.names:
        here = given.get(each, each if each in names else given.get(REST, each))
        if here not in (None, *names) and each not in given and REST not in given:
            raise ValueError(
                f'"from" does not say what {each} of {source.name} becomes: give a class, null '
                f'(ignored), or "{REST}" for all that are not named'
            )
        places.append(IGNORE_LABEL if here is None else _known("from", here, names))
    return tuple(places)


def _colours(
    given: list[str] | None, names: tuple[str, ...], sources: tuple[tuple[Classes, tuple], ...]
) -> tuple[tuple[int, int, int], ...]:
    """As given, #rrggbb; else those of the sources' classes of the same names, others new ones."""
    if given is not None:
        colours = tuple(_colour(each) for each in given)
        if len(set(colours) - {WHITE}) != len(names) or len(colours) != len(names):
            raise ValueError(
                f'"colours" must be {len(names)}, one for each name, all different and none #ffffff'
            )
        return colours
    known = {n: c for table, _ in sources for n, c in zip(table.names, table.colours, strict=True)}
    free = (colour for colour in map(_voc_colour, range(256)) if colour not in known.values())
    return tuple(known.get(each) or next(free) for each in names)


def _colour(text: str) -> tuple[int, int, int]:
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ValueError(f'"colours" holds {brief(text)}; give #rrggbb')
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _voc_colour(index: int) -> tuple[int, int, int]:
    """Colour of a class in PASCAL VOC's palette: its bits, dealt out from the highest down."""
    bits = [[index >> (3 * place + channel) & 1 for place in range(3)] for channel in range(3)]
    red, green, blue = (sum(bit << (7 - place) for place, bit in enumerate(row)) for row in bits)
    return red, green, blue


def _pairs(given: list[tuple[str, str]], names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    pairs = tuple((_known("pairs", a, names), _known("pairs", b, names)) for a, b in given)
    flat = [index for pair in pairs for index in pair]
    if len(set(flat)) < len(flat):
        raise ValueError('"pairs" holds a class twice')
    return pairs


def _weights(given: dict[str, float], names: tuple[str, ...]) -> tuple[float, ...]:
    """Those of all classes, 1 where none is given; none if none is."""
    weights = [1.0] * len(names) if given else []
    for each, weight in given.items():
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(f'"weights" holds {brief(str(weight))}; give numbers of at least 0')
        weights[_known("weights", each, names)] = float(weight)
    return tuple(weights)


def classes_json(classes: Classes) -> dict[str, Any]:
    """The table as `parse_classes` reads it, with those that it is made from unless shipped."""
    data: dict[str, Any] = {
        "name": classes.name,
        "names": list(classes.names),
        "colours": ["#" + bytes(colour).hex() for colour in classes.colours],
        "pairs": [[classes.names[index] for index in pair] for pair in classes.pairs],
    }
    if classes.weights:
        data["weights"] = dict(zip(classes.names, classes.weights, strict=True))
    here = {index: name for index, name in enumerate(classes.names)} | {IGNORE_LABEL: None}
    for table, places in classes.sources:
        named = dict(zip(table.names, (here[place] for place in places), strict=True))
        data.setdefault("from", {})[table.name] = named
        if table.name not in shipped_tables() or _shipped(table.name) != table:
            data.setdefault("tables", {})[table.name] = classes_json(table)
    return data


CELEBAMASK = load_classes("celebamask")
