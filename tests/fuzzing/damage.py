"""Ways to damage a file: `Damage` takes a random generator, the bytes, those of another file."""

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

Damage = Callable[[random.Random, bytes, bytes], bytes]
Chunks = list[tuple[bytes, bytes]]  # of a PNG: type, content

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BEGINNINGS = (
    SIGNATURE,
    b"\xff\xd8\xff\xe0\x00\x10JFIF",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"RIFF\x10\0\0\0WEBPVP8 ",
    b"\0\0\0\x20ftypavif",
    b"<!DOCTYPE html>",
    b"%!PS-Adobe-3.0 EPSF",
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
    b"8BPS\0\1",
    b"version https://git-lfs",
    bytes(16),
)
# Where the fields of most headers are, and values that break sums made from them.
HEADER_BYTES = 128
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip(bits: int) -> Damage:
    """That many bits, anywhere."""

    def damage(rng: random.Random, data: bytes, other: bytes) -> bytes:
        spoilt = bytearray(data)
        for _ in range(bits):
            spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(spoilt)

    return damage


def truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def truncate_end(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: -rng.randrange(1, min(40, len(data)))]


def zero_tail(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """As after a power cut, or a download into a file whose place was reserved."""
    start = rng.randrange(len(data))
    return data[:start] + bytes(len(data) - start)


def fill(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, max(2, len(data) // 4)))
    return data[:start] + rng.choice((b"\0", b"\xff")) * (end - start) + data[end:]


def insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randrange(1, 64)) + data[start:]


def delete(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 64) :]


def repeat(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start : start + rng.randrange(1, 500)] + data[start:]


def swap(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Two blocks of an eighth."""
    size = max(1, len(data) // 8)
    first, second = (rng.randrange(len(data) - size + 1) for _ in range(2))
    spoilt = bytearray(data)
    spoilt[first : first + size] = data[second : second + size]
    spoilt[second : second + size] = data[first : first + size]
    return bytes(spoilt)


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The end of another file, from behind what both begin with: else it is that file."""
    pairs = zip(data, other, strict=False)
    common = next((i for i, (first, second) in enumerate(pairs) if first != second), 0)
    start = rng.randrange(common, len(data))
    return data[:start] + other[start:]


def begin(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The beginning of another format."""
    start = rng.choice(BEGINNINGS)
    return start + data[len(start) :]


def header_field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A number in the header, of 1, 2 or 4 bytes in either order."""
    field = rng.choice(("B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(field)
    start = rng.randrange(max(1, min(HEADER_BYTES, len(data)) - size))
    value = rng.choice(EXTREMES) & (256**size - 1)
    return data[:start] + struct.pack(field, value) + data[start + size :]


def empty(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return b""


BYTES: dict[str, Damage] = {
    "1 bit": flip(1),
    "8 bits": flip(8),
    "64 bits": flip(64),
    "truncated": truncate,
    "end missing": truncate_end,
    "zero tail": zero_tail,
    "filled": fill,
    "inserted": insert,
    "deleted": delete,
    "repeated": repeat,
    "swapped": swap,
    "spliced": splice,
    "other beginning": begin,
    "header field": header_field,
    "empty": empty,
}


def read_chunks(data: bytes) -> Chunks:
    """The chunks of an intact PNG."""
    chunks, start = [], len(SIGNATURE)
    while start < len(data):
        (size,) = struct.unpack(">I", data[start : start + 4])
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + size]))
        start += 12 + size
    return chunks


def join_chunks(chunks: Chunks) -> bytes:
    """A PNG with right checksums."""
    parts = (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return SIGNATURE + b"".join(parts)


def split_pixels(rng: random.Random, chunks: Chunks) -> Chunks:
    """The same picture, its pixels in several chunks."""
    content = b"".join(content for kind, content in chunks if kind == b"IDAT")
    size = rng.randrange(1, max(2, len(content) // 2))
    pixels = [(b"IDAT", content[i : i + size]) for i in range(0, len(content), size)]
    return [c for c in chunks[:-1] if c[0] != b"IDAT"] + pixels + chunks[-1:]


def with_chunks(change: Callable[[random.Random, Chunks], object]) -> Damage:
    """A change to the list of chunks, whose checksums are right afterwards."""

    def damage(rng: random.Random, data: bytes, other: bytes) -> bytes:
        chunks = split_pixels(rng, read_chunks(data))
        change(rng, chunks)
        return join_chunks(chunks)

    return damage


def remove_chunk(rng: random.Random, chunks: Chunks) -> None:
    del chunks[rng.randrange(len(chunks))]


def repeat_chunk(rng: random.Random, chunks: Chunks) -> None:
    chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))


def shift_chunk(rng: random.Random, chunks: Chunks) -> None:
    chunks.insert(rng.randrange(len(chunks)), chunks.pop(rng.randrange(len(chunks))))


def cut_chunk(rng: random.Random, chunks: Chunks) -> None:
    place = rng.randrange(len(chunks))
    kind, content = chunks[place]
    chunks[place] = (kind, content[: rng.randrange(len(content) + 1)])


def rename_chunk(rng: random.Random, chunks: Chunks) -> None:
    """To one that the format knows, or none."""
    place = rng.randrange(len(chunks))
    kinds = (b"IDAT", b"PLTE", b"tRNS", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL")
    chunks[place] = (rng.choice((*kinds, b"fcTL", b"fdAT", b"xxxx")), chunks[place][1])


def change_header(rng: random.Random, chunks: Chunks) -> None:
    """Size, bit depth, colour type, interlacing."""
    fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
    place = rng.randrange(len(fields))
    sizes = (0, 1, fields[0] - 1, fields[0] + 1, fields[0] * 2, 20000, 0x7FFFFFFF, 0xFFFFFFFF)
    fields[place] = rng.choice(sizes if place < 2 else (0, 1, 2, 3, 4, 6, 8, 16, 255))
    chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *fields))


def change_palette(rng: random.Random, chunks: Chunks) -> None:
    """Other colours, as the masks' own are none of: fewer, more, or random ones."""
    colours = bytes(rng.randrange(1, 50) for _ in range(3 * rng.choice((0, 1, 5, 19, 256, 300))))
    chunks[:] = [
        (k, colours + b"\1" * rng.choice((0, 0, 1))) if k == b"PLTE" else (k, c) for k, c in chunks
    ]


CHUNKS: dict[str, Damage] = {
    "chunk removed": with_chunks(remove_chunk),
    "chunk repeated": with_chunks(repeat_chunk),
    "chunk shifted": with_chunks(shift_chunk),
    "chunk cut": with_chunks(cut_chunk),
    "chunk renamed": with_chunks(rename_chunk),
    "PNG header": with_chunks(change_header),
    "palette": with_chunks(change_palette),
}


def split_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the arrays of an intact file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def join_safetensors(header: bytes, arrays: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + arrays
