"""Kinds of damaged tables of classes, and of masks that other tools save with other palettes."""

import io
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

from jaxparse.classes import Classes, classes_json, load_classes, parse_classes
from jaxparse.classes.palettes import PASCAL
from jaxparse.data import masks
from jaxparse.data.drawn.picture import draw_face
from tests.fuzzing.damage import Damage
from tests.fuzzing.judge import Kind
from tests.fuzzing.typed import JSON, TEXT, spoil

PARTS = {"names": ["background", "skin", "brows", "eyes", "hair"], "from": {"celebamask": {}}}
PARTS["from"]["celebamask"] = {"left_brow": "brows", "left_eye": "eyes", "*": "background"}
EVERY_KEY = PARTS | {
    "name": "parts",
    "colours": ["#000000", "#ff0000", "#00ff00", "#800000", "#102030"],
    "pairs": [["brows", "eyes"]],
    "weights": {"hair": 2, "eyes": 0.5},
    "values": {"255": "hair", "9": None},
}
ID2LABEL = {str(index): name for index, name in enumerate(PARTS["names"])}
FIRST = {"names": ["hair", "skin", "other"], "from": {"celebamask": {"*": "other"}}}
GREY = {"names": ["background", "skin", "hair"], "colours": ["#000000", "#777777", "#0000cc"]}
MASKS = {"parts": PARTS, "every": EVERY_KEY, "plain": {"names": PARTS["names"]}, "first": FIRST}
MASKS |= {"grey": GREY, "lapa": classes_json(load_classes("lapa"))}


def inner_field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A field of one of the objects in the table."""
    fields = json.loads(data)
    name = rng.choice(sorted(key for key, value in fields.items() if isinstance(value, dict)))
    texts = {key: json.dumps(value) for key, value in fields.items()}
    texts[name] = spoil(rng, fields[name]).decode()
    return ("{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}").encode()


def item(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Another entry in one of the lists."""
    fields = json.loads(data)
    values = [value for value in fields.values() if isinstance(value, list)] or [[]]
    values = rng.choice(values)
    new = (
        None,
        3,
        "",
        "skin",
        "a\x1b[0m",
        "\ud800",
        ["skin"],
        ["a", "b", "c"],
        {},
        "#ffffff",
        True,
    )
    values[rng.randrange(len(values) + 1) :][:1] = ()
    values.insert(rng.randrange(len(values) + 1), rng.choice(new))
    return json.dumps(fields).encode()


def read_table(path: Path) -> dict:
    """The table, which its own JSON gives again; no two classes look alike."""
    classes = load_classes(path)
    data = classes_json(classes)
    again = parse_classes(json.loads(json.dumps(data)), "again", "again.json")
    assert again == classes and again.colours == classes.colours and again.name == classes.name
    assert len({*classes.colours, (255, 255, 255)}) == len(classes) + 1
    assert all(name.isprintable() for name in (classes.name, *classes.names))
    return data


def tables(folder: Path) -> Kind:
    """Tables with every key, of Hugging Face, made from another file."""
    originals = {
        "every.json": EVERY_KEY,
        "config.json": {"model_type": "segformer", "id2label": ID2LABEL, "num_channels": 3},
        "numbered.json": {"names": ID2LABEL, "from": {"celebamask": {"*": "background"}}},
        "chained.json": FIRST | {"from": {"every.json": {"*": "other"}}},
    }
    data = {name: json.dumps(table, indent=1).encode() for name, table in originals.items()}
    damages = TEXT | JSON | {"inner field": inner_field, "item": item}
    return Kind(data, damages, read_table)


def table_of(name: str) -> Classes:
    return parse_classes(MASKS[name], name, f"{name}.json")


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def with_palette(values: np.ndarray, palette: np.ndarray, mode: str = "P") -> bytes:
    picture = Image.fromarray(values)
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return png(picture.convert(mode))


def own_palette(name: str) -> np.ndarray:
    """Colours [256, 3] by value in the file, which other values have at random."""
    palette = np.random.default_rng(0).integers(1, 255, (256, 3))
    classes = table_of(name)
    of_value = classes.class_of_value
    known = (of_value >= 0) & (of_value < len(classes))
    palette[known] = classes.palette[of_value[known]]
    return palette


def saved(way: str) -> Damage:
    """The mask of the table that its last byte stands for, as another tool saves it."""

    def save(rng: random.Random, data: bytes, other: bytes) -> bytes:
        name = sorted(MASKS)[data[-1]]
        values = np.asarray(Image.open(io.BytesIO(data)))
        own = own_palette(name)
        if way.startswith("pascal"):
            return with_palette(values, np.array(PASCAL), way[7:])
        if way.startswith("own"):
            return with_palette(values, own, way[4:])
        if way == "grey RGB":
            return png(Image.fromarray(values).convert("RGB"))
        if way == "random":
            colours = np.random.default_rng(rng.randrange(2**32)).integers(1, 255, (256, 3))
            return with_palette(values, colours)
        # Renumbered: only the colours in use, in another order.
        colours = np.array(PASCAL) if way == "renumbered pascal" else own
        used = np.unique(values)
        order = rng.sample(range(len(used)), len(used))
        place = np.zeros(256, np.uint8)
        place[used] = order
        return with_palette(place[values], colours[used[np.argsort(order)]])

    return save


WAYS = ("pascal P", "pascal RGB", "own P", "own RGB", "grey RGB", "random", "renumbered own")
WAYS += ("renumbered pascal",)


def palettes(folder: Path) -> Kind:
    """Greyscale masks of several tables, saved again in colours: read as they were, or refused."""
    originals = {}
    for number in range(4):
        for name in MASKS:
            classes = table_of(name)
            used = random.Random(f"{name} {number}").sample(range(len(classes)), 2 + number % 2)
            values = [np.flatnonzero(classes.class_of_value == index)[-1] for index in used]
            chosen = np.array(values, np.uint8)[draw_face(0, number, 32)[1] % len(values)]
            data = png(Image.fromarray(chosen)) + bytes([sorted(MASKS).index(name)])
            originals[f"{name}{number}/mask.png"] = data

    def read(path: Path) -> np.ndarray:
        masks._sampled.cache_clear()  # a file that is overwritten leaves its folder's time
        return masks.read_label(path, table_of(path.parent.name[:-1]))

    return Kind(originals, {way: saved(way) for way in WAYS}, read, sums=True)
