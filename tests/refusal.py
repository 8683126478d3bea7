"""What tests expect of a refusal: the file, the value and the fix, not the prose."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refuses(*words: object, error: type[Exception] = ValueError) -> Iterator[pytest.ExceptionInfo]:
    """The block raises `error`, and its text holds each of the words."""
    with pytest.raises(error) as caught:
        yield caught
    for word in words:
        assert str(word) in str(caught.value), (word, str(caught.value))
