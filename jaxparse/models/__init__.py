"""Networks: `builders` has the table, the other modules the parts, `ops` the exact operations."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what __getattr__ imports, for type checkers and editors
    from jaxparse.models.builders import (
        BACKBONES,
        build_backbone,
        build_model,
        fewest_pictures,
        require_enough_pictures,
        split_model,
    )

__all__ = ["BACKBONES", "build_backbone", "build_model", "fewest_pictures"]
__all__ += ["require_enough_pictures", "split_model"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported here: flax takes 0.3 s, and a compiled network that is on disk needs only the ops.
    if name not in __all__:
        raise AttributeError(f"module jaxparse.models has no attribute {name}")
    from jaxparse.models import builders

    return getattr(builders, name)
