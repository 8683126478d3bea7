"""Typed faults: a field of a JSON object that is missing, or holds what it never should."""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from tests.fuzzing.damage import BYTES, Damage, join_safetensors, split_safetensors

# JSON, some of it Python's alone. More digits than Python converts, more brackets than it nests.
LITERALS = (
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "1.5",
    "-0.0",
    "1e-320",
    "1e308",
    "1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    "2147483647",
    "9" * 10,
    "9" * 30,
    "-" + "9" * 30,
    "9" * 400,
    "9" * 5000,
    '""',
    '"x"',
    '"0"',
    r'"\u0000"',
    r'"a\nb"',
    r'"\ud800"',
    '"' + "long" * 1000 + '"',
    "[]",
    "[1, 2]",
    '["x", null]',
    "{}",
    '{"x": 1}',
    "[" * 100_000,
)
NAMES = ("", "x", "a.b", "../x", "\n", "ä", "[red]", "long" * 1000)


def dump(fields: Mapping[str, str]) -> bytes:
    """An object of values that are JSON already."""
    pairs = (f"{json.dumps(name)}: {text}" for name, text in fields.items())
    return ("{" + ", ".join(pairs) + "}").encode()


def spoil(rng: random.Random, fields: dict[str, Any]) -> bytes:
    """The object with one field that is missing, of another value or name, or one more."""
    texts = {name: json.dumps(value) for name, value in fields.items()}
    name = rng.choice(sorted(texts))
    change = rng.random()
    if change < 0.1:
        del texts[name]
    elif change < 0.2:
        texts[rng.choice(NAMES)] = texts.pop(name)
    elif change < 0.25:
        texts[rng.choice(NAMES)] = rng.choice(LITERALS)
    else:
        texts[name] = rng.choice(LITERALS)
    return dump(texts)


def field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return spoil(rng, json.loads(data))


def other_root(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Not an object."""
    return rng.choice(LITERALS).encode()


def encoded(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """As other programs write text."""
    text = data.decode()
    ways = (
        lambda: b"\xef\xbb\xbf" + data,
        lambda: text.encode("utf-16"),
        lambda: text.replace("\n", "\r\n").encode(),
        lambda: text.replace("e", "é").encode("latin-1"),
        lambda: data.replace(b" ", b"\0"),
    )
    return rng.choice(ways)()


TEXT: dict[str, Damage] = {
    **{name: BYTES[name] for name in ("1 bit", "8 bits", "truncated", "zero tail", "inserted")},
    **{name: BYTES[name] for name in ("deleted", "repeated", "swapped", "spliced", "empty")},
    "other encoding": encoded,
}
JSON: dict[str, Damage] = {"field": field, "other root": other_root}


def line(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A field of one line of JSON lines."""
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    lines[place] = spoil(rng, json.loads(lines[place])) + b"\n"
    return b"".join(lines)


def words(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A word of one line of text that is another, missing, or one more."""
    lines = data.decode().splitlines()
    place = rng.randrange(len(lines))
    parts = lines[place].split()
    values = ("", "-1", "٣", "²", "9" * 5000, "1e3", "../x", "x" * 1000, "\0", "[red]", "3")
    index = rng.randrange(len(parts) + 1)
    parts[index : index + rng.randrange(2)] = [rng.choice(values)]
    lines[place] = " ".join(parts)
    return "\n".join(lines).encode()


HeaderChange = Callable[[random.Random, dict[str, Any]], bytes]


def with_header(change: HeaderChange) -> Damage:
    """A change to the header of a .safetensors, whose length is right afterwards."""

    def damage(rng: random.Random, data: bytes, other: bytes) -> bytes:
        header, arrays = split_safetensors(data)
        return join_safetensors(change(rng, header), arrays)

    return damage


def metadata(rng: random.Random, header: dict[str, Any]) -> bytes:
    """One of the strings, or what is JSON in it."""
    about = header["__metadata__"]
    name = rng.choice(sorted(about))
    if about[name].startswith("{") and rng.random() < 0.7:
        about[name] = spoil(rng, json.loads(about[name])).decode()
        return json.dumps(header).encode()
    texts = {key: json.dumps(value) for key, value in header.items()}
    return dump(texts | {"__metadata__": spoil(rng, about).decode()})


def array_entry(rng: random.Random, header: dict[str, Any]) -> bytes:
    """Type, shape or place of an array."""
    name = rng.choice(sorted(header.keys() - {"__metadata__"}))
    texts = {key: json.dumps(value) for key, value in header.items()}
    entry = header[name]
    if rng.random() < 0.4:
        texts[name] = spoil(rng, entry).decode()
        return dump(texts)
    kinds = ("F64", "F16", "BF16", "F8_E4M3", "I32", "U32", "I64", "BOOL", "U8", "C64", "X")
    places = [[0, 0], [-1, 4], [4, 0], [0, 2**64 - 1], [0, 2**63], [0, 4, 8], [0.5, 4], ["0", "4"]]
    shapes = [[], [0], [-1], [2**32, 2**32], [2**63], [entry["shape"]], entry["shape"][::-1]]
    entry[rng.choice(sorted(entry))] = rng.choice([*kinds, *places, *shapes])
    return dump(texts | {name: json.dumps(entry)})


def array_names(rng: random.Random, header: dict[str, Any]) -> bytes:
    """An array by another name, or two that have exchanged theirs."""
    first, second = rng.sample(sorted(header.keys() - {"__metadata__"}), 2)
    if rng.random() < 0.5:
        header[first], header[second] = header[second], header[first]
    else:
        header[rng.choice((*NAMES, first + ".0", "module." + second))] = header.pop(first)
    return json.dumps(header).encode()


def header_length(rng: random.Random, data: bytes, other: bytes) -> bytes:
    length = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(data), rng.randrange(len(data))))
    return length.to_bytes(8, "little") + data[8:]


def not_finite(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A NaN or infinity among the float32."""
    header, arrays = split_safetensors(data)
    place = 4 * rng.randrange(len(arrays) // 4)
    value = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff"))
    arrays = arrays[:place] + value + arrays[place + 4 :]
    return join_safetensors(json.dumps(header).encode(), arrays)


HEADERS: dict[str, Damage] = {
    "array entry": with_header(array_entry),
    "array names": with_header(array_names),
    "header length": header_length,
    "not finite": not_finite,
}
METADATA: dict[str, Damage] = {"metadata": with_header(metadata)}
