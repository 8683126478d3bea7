"""Labelled pictures through a Parser: each parsing with its pixel counts against the mask."""

from collections.abc import Iterator, Sequence

from jaxparse.data.sources import FolderSource, SyntheticSource
from jaxparse.files import read_ahead, results
from jaxparse.parsing.parser import Parser, Parsing, Picture
from jaxparse.scoring.counts import Counts, count


def evaluate_pictures(
    parser: Parser,
    source: FolderSource | SyntheticSource,
    num_workers: int,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Parsing, Counts]]:
    """The parsing of every picture, or of those at `indices`, and its counts against the mask.

    In order. Threads read ahead and count behind. Raises ValueError for a picture that cannot be
    read.
    """

    def read(index: int) -> Picture:
        return parser.prepare(*source.read(index))

    def count_one(parsing: Parsing) -> Counts:
        return count(parsing.label, parsing.mask)

    indices = range(len(source)) if indices is None else indices
    pictures = results(read_ahead(read, indices, num_workers))
    for parsing, counts in read_ahead(count_one, parser.parse(pictures), num_workers):
        if isinstance(counts, ValueError):
            raise counts
        yield parsing, counts
