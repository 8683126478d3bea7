"""Files that are either whole or absent: written to a temporary name, then renamed."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block ends without an error.

    The temporary name keeps the suffix, since libraries choose the format by it. Folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_ahead(read: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """`map(read, items)` in threads, in order, at most 2 * num_threads results ahead."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending = deque()
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
