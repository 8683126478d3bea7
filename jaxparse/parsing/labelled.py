"""NEW MODULE."""

from collections.abc import Iterator, Sequence

from jaxparse.data.sources import FolderSource, SyntheticSource
from jaxparse.files import read_ahead
from jaxparse.parsing.parser import Parser, Parsing, Picture
from jaxparse.scoring.counts import Counts, count


def evaluate_pictures(
    parser: Parser,
    source: FolderSource | SyntheticSource,
    num_workers: int,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Parsing, Counts]]:
    """The parsing of every picture, or of those at `indices`, and what it counts against its mask.

    In order. Threads read ahead and count behind. Raises ValueError for a picture that cannot be
    read.
    """

    def read(index: int) -> Picture:
        return parser.prepare(*source.read(index))

    def count_one(parsing: Parsing) -> tuple[Parsing, Counts]:
        return parsing, count(parsing.label, parsing.mask)

    indices = range(len(source)) if indices is None else indices
    pictures = read_ahead(read, indices, num_workers)
    return read_ahead(count_one, parser.parse(pictures), num_workers)
