"""An exported file beside JAX: pictures, the differences, and how large they may be."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxparse.config import Config, Precision
from jaxparse.data.drawn.picture import draw_face
from jaxparse.exporting.program import Weights, picture_to_mask

Outputs = Mapping[str, np.ndarray]
PICTURES = 2  # drawn faces


class Agreement(NamedTuple):
    """Largest difference of the probabilities, and the share of pixels of the same class."""

    difference: float
    masks: float


# In float16 an activation has 11 significant bits; docs/deploy.md has what was measured.
LIMITS: dict[Precision, Agreement] = {
    "float32": Agreement(1e-4, 0.9999),
    "float16": Agreement(5e-2, 0.998),
}


def reference(config: Config, weights: Weights) -> tuple[np.ndarray, Outputs]:
    """Drawn faces uint8 [2, S, S, 3], and what JAX makes of them in float32."""
    faces = [draw_face(0, index, config.image_size)[0] for index in range(PICTURES)]
    image = np.stack(faces)
    outputs = jax.jit(picture_to_mask(config, "float32", True))(weights, image)
    return image, jax.tree.map(np.asarray, outputs)


def compare(
    run: Callable[[np.ndarray], Outputs], image: np.ndarray, expected: Outputs
) -> Agreement:
    """The agreement of a loaded file on these pictures."""
    found = run(image)
    difference = abs(found["probabilities"] - expected["probabilities"]).max()
    return Agreement(float(difference), float((found["mask"] == expected["mask"]).mean()))


def require_agreement(found: Agreement, precision: Precision) -> None:
    """Raises ValueError for a file that does not do what the network does, NaN included."""
    limit = LIMITS[precision]
    if not (found.difference <= limit.difference and found.masks >= limit.masks):
        raise ValueError(
            f"the exported network differs from JAX by {found.difference:.1e} in its probabilities "
            f"and in {100 * (1 - found.masks):.3f} % of its pixels; allowed in {precision} are "
            f"{limit.difference:.0e} and {100 * (1 - limit.masks):.3f} %: nothing was written"
        )
