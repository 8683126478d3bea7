"""jaxparse: face parsing in JAX, one of 19 classes for every pixel of a face picture."""

from typing import Any

__all__ = ["Parser", "Parsing", "TestTime"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Not above: the loader's workers and the commands that need no network start without jax.
    if name not in __all__:
        raise AttributeError(f"module jaxparse has no attribute {name}")
    from jaxparse.parsing import parser

    return getattr(parser, name)
