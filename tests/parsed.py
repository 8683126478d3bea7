"""Drawn faces to parse, and what a mask must be, computed the plain way in float64."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import write_image
from jaxparse.parsing import parser
from tests.conftest import Nano


def share_program(patch: pytest.MonkeyPatch, nano: Nano) -> None:
    """Parsers of the mini network take `nano`'s compiled program; the weights are their own."""
    patch.setattr(parser, "make_logits_step", lambda config, precision: nano.network.func)


def face(index: int, size: tuple[int, int]) -> np.ndarray:
    """A drawn face stretched to (height, width): uint8 [H, W, 3]."""
    picture = Image.fromarray(draw_face(0, index, 64)[0])
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def draw(path: Path, index: int, size: tuple[int, int]) -> Path:
    """Writes that face; returns the path."""
    write_image(path, face(index, size))
    return path


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, C] -> float64 [*size, C], bilinearly: torch's align_corners=False."""
    for axis, length in enumerate(size):
        last = x.shape[axis] - 1
        centres = (np.arange(length) + 0.5) * (last + 1) / length - 0.5
        centres = centres.clip(0, last)
        low = centres.astype(int)
        share = np.expand_dims(centres - low, tuple({0, 1, 2} - {axis}))
        high = np.minimum(low + 1, last)
        x = (1 - share) * x.take(low, axis) + share * x.take(high, axis)
    return x


def require_highest(mask: np.ndarray, values: np.ndarray) -> None:
    """Every pixel has the class of the highest of the values [H, W, C], but for rounding."""
    chosen = np.take_along_axis(values, mask[..., None].astype(int), 2)[..., 0]
    assert (values.max(2) - chosen).max() <= 1e-5 * np.abs(values).max()
