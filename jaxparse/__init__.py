"""jaxparse: face parsing in JAX, a class for every pixel of a face picture."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what __getattr__ imports, for type checkers and editors
    from jaxparse.parsing.parser import Parser, TestTime
    from jaxparse.parsing.results import Parsing

__all__ = ["Parser", "Parsing", "TestTime"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported here, so that loader workers and commands without a network start without jax.
    if name not in __all__:
        raise AttributeError(f"module jaxparse has no attribute {name}")
    from jaxparse.parsing import parser

    return getattr(parser, name)
