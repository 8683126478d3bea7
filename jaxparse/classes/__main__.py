"""`python -m jaxparse.classes NAME`: a table of classes, its colours, what it is made from."""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("classes")

from os.path import isfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, IGNORE_LABEL, Classes, load_classes, shipped_tables
from jaxparse.weights.files import network_fields
from jaxparse.weights.find import find_weights


def named(table: str) -> Classes:
    """The table of that name or .json file, or of weights: a file, a run or a name on the hub."""
    if table in shipped_tables() or table.endswith(".json") or _begins_as_json(Path(table)):
        return load_classes(table)
    path = find_weights(table)
    if not path.is_file():
        load_classes(table)  # raises, listing the tables
    if "classes" not in (fields := network_fields(path)):
        raise ValueError(f"{path} contains only a backbone, which has no classes; give a network's")
    return fields["classes"]


def _begins_as_json(path: Path) -> bool:
    """Whether the file begins with {: weights do not."""
    if not isfile(path):
        return False
    with path.open("rb") as file:
        return file.read(4).strip(b"\xef\xbb\xbf\xff\xfe\0").startswith(b"{")


def class_table(classes: Classes) -> Table:
    """One row per class: index, colour, name, partner in a mirror image, and its origins."""
    weights = dict(enumerate(classes.weights))
    origins = [f"from {source}" for source, _ in classes.sources]
    title = f"{classes}: {len(classes)} classes"
    further = ["value in masks"] * bool(classes.values) + ["weight"] * bool(weights)
    table = Table("", "", "class", "in a mirror image", *further, *origins)
    table.title = Text(title)
    for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True)):
        swatch = Text("  ", style="on #" + bytes(colour).hex())
        partner = classes.mirrored[index]
        shown = [str(index), swatch, Text(name)]
        shown.append(Text(classes.names[partner] if partner != index else ""))
        shown += [_values(classes, index)] if classes.values else []
        shown += [f"{weights[index]:g}"] if weights else []
        table.add_row(
            *shown, *(became(source, places, index) for source, places in classes.sources)
        )
    if any(IGNORE_LABEL in places for _, places in classes.sources):
        ignored = (became(*source, IGNORE_LABEL) for source in classes.sources)
        blank = [""] * len(further)
        table.add_row(str(IGNORE_LABEL), "", "ignored", "", *blank, *ignored)
    return table


def _values(classes: Classes, index: int) -> str:
    return ", ".join(str(value) for value, place in classes.values if place == index)


def became(source: Classes, places: tuple[int, ...], index: int) -> Text:
    """The names of the classes of `source` that become the class here."""
    names = (name for name, place in zip(source.names, places, strict=True) if place == index)
    return Text(", ".join(names))


def print_classes(table: str = CELEBAMASK.name, /) -> None:
    """Prints a table of classes.

    A table of your own is a .json file, here of hair and all else, made from celebamask:
    {"names": ["other", "hair"], "from": {"celebamask": {"*": "other"}}}

    Args:
        table: One that comes with jaxparse, a .json file, or weights: a file, the folder of a run
            or a repository of the Hugging Face hub (user/name).
    """
    console = Console()
    console.print(class_table(named(table)))
    cli.show(console, f"tables that come with jaxparse: {', '.join(shipped_tables())}")


def main() -> None:
    """Command line of `print_classes`."""
    cli.command(print_classes, "classes", {"--weights": ""})
