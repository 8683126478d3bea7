"""Labelled pictures through a Parser: each parsing with its pixel counts against the mask."""

from collections.abc import Iterator, Sequence

from jaxparse.data.sources import FolderSource, SyntheticSource
from jaxparse.files import read_ahead, results
from jaxparse.parsing.parser import Parser
from jaxparse.parsing.results import Parsing, Picture
from jaxparse.scoring.counts import Counts, count


def evaluate_pictures(
    parser: Parser,
    source: FolderSource | SyntheticSource,
    num_workers: int,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Parsing, Counts]]:
    """The parsing of every picture, or of those at `indices`, and its counts against the mask.

    In order. Threads read the next pictures and count the last ones. Raises ValueError for a
    picture that cannot be read.
    """

    def read(index: int) -> Picture:
        return parser.prepare(*source.read(index))

    def with_counts(parsing: Parsing) -> tuple[Parsing, Counts]:
        return parsing, count(parsing.label, parsing.mask, len(parser.classes))

    indices = range(len(source)) if indices is None else indices
    pictures = results(read_ahead(read, indices, num_workers))
    return results(read_ahead(with_counts, parser.parse(pictures), num_workers))
