"""Tables of classes as JSON, read, checked and written: docs/classes.md says what its keys mean."""

import json
import re
from functools import cache
from itertools import chain
from os.path import isfile
from pathlib import Path
from typing import Any

from jaxparse.classes.palettes import PASCAL, WHITE, Colour, further_colours
from jaxparse.classes.spelling import halves
from jaxparse.classes.table import IGNORE_LABEL, MOST_CLASSES, Classes
from jaxparse.files import brief, read_json

EXAMPLES = {
    "name": '"hair"',
    "names": '["background", "hair"]',
    "colours": '["#000000", "#0000cc"]',
    "pairs": '[["left_eye", "right_eye"]]',
    "weights": '{"hair": 2}',
    "values": '{"255": "hair"}',
    "from": '{"celebamask": {"*": "background"}}',
    "tables": '{"mine": {"names": ["background", "hair"]}}',
}
KEYS = EXAMPLES.keys()
VALUES = {str(value) for value in range(256)}
REST = "*"  # in a file's "from": the classes that are not named


@cache
def shipped_tables() -> list[str]:
    """The names of the tables that come with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.json"))


def load_classes(table: str | Path | Classes, within: tuple[Path, ...] = ()) -> Classes:
    """The table of a name such as celebamask, or of a .json file; a table is itself.

    `within` are files that name this one. Raises ValueError, naming the file and what is wrong, if
    it holds none.
    """
    if isinstance(table, Classes):
        return table
    if str(table) in shipped_tables():
        return _shipped(str(table))
    path, known = Path(table), ", ".join(shipped_tables())
    if path.suffix != ".json" and isfile(path):
        raise ValueError(f"{path} is no .json file; if it is a table, rename it to {path}.json")
    if not isfile(path):  # pathlib's raises for names that are too long
        advice = f"give a .json file (`python -m jaxparse.classes --help` shows one) or: {known}"
        raise ValueError(f"there are no classes {brief(table)}; {advice}")
    if path.resolve() in within:
        raise ValueError(f'{path} is made from itself; take that out of "from"')
    return parse_classes(read_json(path), path.stem, path, (*within, path.resolve()))


@cache
def _shipped(name: str) -> Classes:
    path = Path(__file__).with_name(f"{name}.json")
    return parse_classes(read_json(path), name, path)


class TableError(ValueError):
    """What is wrong with a table, naming its file."""


def parse_classes(
    data: Any,  # noqa: ANN401
    name: str,
    path: str | Path,
    within: tuple[Path, ...] = (),
) -> Classes:
    """The table that the file at `path` holds as JSON. Raises ValueError, naming `path`."""
    try:
        return _parsed(_of_right_types(data), name, Path(path), within)
    except TableError:
        raise  # of a table that this one is made from
    except RecursionError as error:
        raise TableError(f"{path}: it is made from too many tables, each from the next") from error
    except ValueError as error:
        raise TableError(f"{path}: {error}") from error


def _of_right_types(data: Any) -> dict[str, Any]:  # noqa: ANN401
    """The table, its names a list. Raises ValueError for a key that is unknown or ill-typed."""
    if isinstance(data, dict) and "id2label" in data:  # config.json of Hugging Face
        kept = {key: value for key, value in data.items() if key in KEYS}
        data = kept | {"names": data["id2label"]}
    if not isinstance(data, dict):
        raise ValueError(f'it holds {brief(repr(data))}; give {{"names": {EXAMPLES["names"]}}}')
    if unknown := data.keys() - KEYS:
        raise ValueError(f"unknown key {brief(min(unknown))}; there are: {', '.join(sorted(KEYS))}")
    if isinstance(names := data.get("names"), dict):
        data = data | {"names": _numbered(names)}
    for key, value in data.items():
        if not isinstance(value, type(json.loads(EXAMPLES[key]))):
            raise ValueError(f'"{key}" is {brief(repr(value))}; give such as {EXAMPLES[key]}')
    return data


def _numbered(names: dict[str, Any]) -> list[Any]:
    """Hugging Face's id2label as a list."""
    if names.keys() != {str(index) for index in range(len(names))}:
        raise ValueError(
            f'"names" are numbered {brief(", ".join(names))}: number them 0 to {len(names) - 1}, '
            'or list them, and give the values in masks under "values"'
        )
    return [names[str(index)] for index in range(len(names))]


def _parsed(data: dict[str, Any], name: str, path: Path, within: tuple[Path, ...]) -> Classes:
    names = tuple(data.get("names", ()))
    _require_names(names)
    tables = data.get("tables", {})

    def table(key: str) -> Classes:
        if key in tables:
            return parse_classes(tables[key], key, path, within)
        return load_classes(path.parent / key if key.endswith(".json") else key, within)

    sources = tuple(
        (source, _places(source, given, names))
        for source, given in ((table(key), given) for key, given in data.get("from", {}).items())
    )
    return Classes(
        brief(data.get("name", name)),
        names,
        _colours(data.get("colours"), names, sources),
        _pairs(data.get("pairs", halves(names)[0]), names),
        _weights(data.get("weights", {}), names),
        _values(data.get("values", {}), names),
        sources,
    )


def _require_names(names: tuple[str, ...]) -> None:
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(f'"names" are {len(names)}; give 2 to {MOST_CLASSES}')
    for each in names:
        if not _is_name(each):
            raise ValueError(f'"names" holds {brief(repr(each))}; give a word without , = / *')
    if len(set(names)) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise ValueError(f'"names" holds {brief(twice)} twice')


def _is_name(each: object) -> bool:
    return (
        isinstance(each, str)
        and each.isprintable()
        and bool(each.strip())
        and not set(each) & set(",=/*")
    )


def _known(key: str, each: str | None, names: tuple[str, ...]) -> int:
    if each not in names:
        shown = ", ".join(names)
        raise ValueError(f'"{key}" names {brief(str(each))}, which is none of {brief(shown)}')
    return names.index(each)


def _places(source: Classes, given: Any, names: tuple[str, ...]) -> tuple[int, ...]:  # noqa: ANN401
    """For each class of `source` its index here: as `given`, or that of the same name."""
    if not isinstance(given, dict):
        raise ValueError(f'"from" holds {brief(repr(given))}; give such as {EXAMPLES["from"]}')
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
) -> tuple[Colour, ...]:
    """As given, #rrggbb; else those of the sources' classes of the same names, else PASCAL's."""
    if given is not None:
        colours = tuple(_colour(each) for each in given)
        if len(set(colours) - {WHITE}) != len(names) or len(colours) != len(names):
            raise ValueError(
                f'"colours" must be {len(names)}, one for each name, all different and none #ffffff'
            )
        return colours
    # Not the colours of classes that had none of their own: they stand for an index.
    known = {
        name: colour
        for table, _ in sources
        for index, (name, colour) in enumerate(zip(table.names, table.colours, strict=True))
        if name in names and (index == 0 or colour != PASCAL[index])
    }
    colours: list[Colour] = []
    for index, name in enumerate(names):
        own = [PASCAL[index]] if PASCAL[index] not in known.values() else []
        choices = chain([known[name]] if name in known else [], own, further_colours())
        colours.append(next(each for each in choices if each not in colours))
    return tuple(colours)


def _colour(text: str) -> Colour:
    if not re.fullmatch("#[0-9a-fA-F]{6}", str(text)):
        raise ValueError(f'"colours" holds {brief(repr(text))}; give #rrggbb')
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _pairs(given: list[Any], names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    for pair in given:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f'"pairs" holds {brief(repr(pair))}; give such as {EXAMPLES["pairs"]}')
    pairs = tuple((_known("pairs", a, names), _known("pairs", b, names)) for a, b in given)
    flat = [index for pair in pairs for index in pair]
    if len(set(flat)) < len(flat):
        raise ValueError('"pairs" holds a class twice')
    return pairs


def _weights(given: dict[str, Any], names: tuple[str, ...]) -> tuple[float, ...]:
    """Those of all classes, 1 where none is given; none if none is."""
    weights = [1.0] * len(names) if given else []
    for each, weight in given.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < float("inf"):
            raise ValueError(f'"weights" holds {brief(repr(weight))}; give numbers of at least 0')
        weights[_known("weights", each, names)] = float(weight)
    if weights and not any(weights):
        raise ValueError('"weights" are all 0, so nothing could be learnt; give one above 0')
    return tuple(weights)


def _values(given: dict[str, Any], names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Value in masks -> class: as `given`, and for classes that are not named there their index."""
    values = {}
    for value, each in given.items():
        if value not in VALUES:
            raise ValueError(f'"values" holds {brief(repr(value))}; give "0" to "255"')
        values[int(value)] = IGNORE_LABEL if each is None else _known("values", each, names)
    for index in set(range(len(names))) - set(values.values()) if given else ():
        if index in values:
            raise ValueError(
                f'"values" leaves no value to {names[index]}: {index} is said to be another class; '
                "name its value as well"
            )
        values[index] = index
    return tuple(sorted({IGNORE_LABEL: IGNORE_LABEL, **values}.items())) if given else ()


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
    here = dict(enumerate(classes.names)) | {IGNORE_LABEL: None}
    if classes.values:
        data["values"] = {str(value): here[index] for value, index in classes.values}
    for table, places in classes.sources:
        named = dict(zip(table.names, (here[place] for place in places), strict=True))
        data.setdefault("from", {})[table.name] = named
        if table.name not in shipped_tables() or _shipped(table.name) != table:
            data.setdefault("tables", {})[table.name] = classes_json(table)
    return data
