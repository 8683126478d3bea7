from collections.abc import Iterator

import pytest

from tests import reference


@pytest.fixture
def float64() -> Iterator[None]:
    """JAX's 64-bit mode."""
    with reference.precision("float64"):
        yield
