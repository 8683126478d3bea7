"""PNG masks whose header and pixels do not fit, their checksums right."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxparse.data.masks import read_label
from jaxparse.data.png import PASSES
from jaxparse.data.releases.celebamask import read_part
from jaxparse.scoring.submissions import decode_mask
from tests.fuzzing.damage import Chunks, join_chunks
from tests.refusal import refuses

LABEL = np.random.default_rng(0).integers(0, 5, (13, 11), dtype=np.uint8)


def header(
    label: np.ndarray, depth: int = 8, colour: int = 0, interlaced: int = 0
) -> tuple[bytes, bytes]:
    size = label.shape[::-1]
    return b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)


def unfiltered(rows: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in rows)


def png(head: tuple[bytes, bytes], pixels: bytes, *more: tuple[bytes, bytes]) -> bytes:
    chunks: Chunks = [head, *more, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return join_chunks(chunks)


def test_plain_and_interlaced_masks_are_read(tmp_path: Path) -> None:
    passes = b"".join(unfiltered(LABEL[y::dy, x::dx]) for x, y, dx, dy in PASSES)
    for data in (png(header(LABEL), unfiltered(LABEL)), png(header(LABEL, interlaced=1), passes)):
        (tmp_path / "a.png").write_bytes(data)
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), LABEL)


@pytest.mark.parametrize(
    "damaged, word",
    [
        (png(header(LABEL[:9]), unfiltered(LABEL)), "pixels"),
        (png(header(LABEL, depth=4), unfiltered(LABEL)), "pixels"),
        (png(header(LABEL, interlaced=1), unfiltered(LABEL)), "pixels"),
        (png(header(LABEL), unfiltered(LABEL) + bytes(12)), "pixels"),
        (png(header(LABEL, colour=3), unfiltered(LABEL)), "palette"),
    ],
)
def test_pixels_that_do_not_fit_the_header_are_refused(
    tmp_path: Path, damaged: bytes, word: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(damaged)
    with refuses(path, word):
        read_label(path)


def test_so_are_those_of_submissions_and_of_the_release(tmp_path: Path) -> None:
    label = np.zeros((512, 512), np.uint8)
    damaged = png(header(label), unfiltered(label) + bytes(513))
    (tmp_path / "00000_skin.png").write_bytes(damaged)
    with refuses(tmp_path / "00000_skin.png", "pixels"):
        read_part(tmp_path / "00000_skin.png")
    with refuses("pixels"):
        decode_mask(damaged)
