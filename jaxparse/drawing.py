"""Coloured polygons: outlines from numbers, curves through them, a canvas that paints them.

A figure has its own frame; a pose places it in the picture, whose side is 1, y down.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Shape = tuple[int, np.ndarray, np.ndarray]  # class, RGB 0..255, outline [N, 2]

SUPERSAMPLE = 3  # odd, so that a pixel's centre is the centre of a canvas pixel


def table(text: str, columns: int = 2) -> np.ndarray:
    """[N, columns] of the numbers in `text`."""
    return np.array(text.split(), float).reshape(-1, columns)


def mirrored(half: np.ndarray) -> np.ndarray:
    """The closed outline [2N, 2] of an outline's +x half [N, 2]."""
    return np.concatenate([half, half[::-1] * (-1, 1)])


def smooth(points: np.ndarray, closed: bool = True, steps: int = 6) -> np.ndarray:
    """Catmull-Rom curve through [N, D] points; `steps` new points for each."""
    before, after = (points[-1:], points[:2]) if closed else (points[:1], points[[-1, -1]])
    padded = np.concatenate([before, points, after])
    t = np.arange(steps)[:, None] / steps
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    windows = np.stack([padded[i : i + len(points)] for i in range(4)], 1)  # [N, 4, D]
    curve = (np.concatenate(weights, 1) / 2 @ windows).reshape(-1, points.shape[1])
    return curve if closed else curve[: steps * (len(points) - 1) + 1]


def ribbon(points: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Outline [2N, 2] of a brush stroke along [N, 2]; `width` may vary, [N]."""
    steps = np.concatenate([points[1:] - points[:-1], points[-1:] - points[-2:-1]])
    normals = steps[:, ::-1] * (-0.5, 0.5) / (np.hypot(*steps.T)[:, None] + 1e-9)
    offset = normals * np.reshape(width, (-1, 1))
    return np.concatenate([points + offset, (points - offset)[::-1]])


def ellipse(x: float, y: float, wide: float, high: float, roundness: float = 1.0) -> np.ndarray:
    """Outline [25, 2], the first point again at its end; roundness below 1 squares it."""
    angle = np.linspace(0, 2 * np.pi, 25)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.sign(circle) * np.abs(circle) ** roundness * (wide, high) + (x, y)


def between(label: int, color: np.ndarray, first: np.ndarray, second: np.ndarray) -> Shape:
    """The area between two curves that run the same way."""
    return label, color, np.concatenate([first, second[::-1]])


@dataclass(frozen=True)
class Pose:
    """Places points of the head's frame in the picture."""

    scale: float
    tilt: float  # radians
    yaw: float  # radians; above 0 the face looks to image right
    x: float  # of the frame's origin, in picture sides
    y: float

    def place(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """[N, 2] head frame -> [N, 2] picture sides; `lift` is the height above the face."""
        x, y = points.T
        # The face bulges: its middle turns with the yaw, its sides foreshorten, the ears go back.
        depth = np.sqrt(np.maximum(0.09 - x * x, 0)) - 0.15 + lift
        x = x * np.cos(self.yaw) + depth * np.sin(self.yaw)
        across = x * np.cos(self.tilt) - y * np.sin(self.tilt)
        down = x * np.sin(self.tilt) + y * np.cos(self.tilt)
        return np.stack([across * self.scale + self.x, down * self.scale + self.y], 1)


def _rgb(color: np.ndarray) -> tuple[int, ...]:
    return tuple(np.clip(color, 0, 255).astype(int).tolist())


def render(shapes: Iterator[Shape], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours f32 [H, W, 3], black in the background; coverage 0..1 [H, W, 1]; label u8 [H, W].

    Outlines are in picture sides. The canvas holds the number of a paint: a class and a colour.
    """
    side = size * SUPERSAMPLE
    canvas, paints = Image.new("L", (side, side)), {(BACKGROUND, 0, 0, 0): 0}
    draw = ImageDraw.Draw(canvas)
    for label, color, points in shapes:
        number = paints.setdefault((label, *_rgb(color)), len(paints))
        # Pillow's whole coordinates are the centres of pixels.
        draw.polygon((points * side - 0.5).ravel().tolist(), fill=number)
    assert len(paints) <= 256, f"{len(paints)} paints; a canvas holds 256"
    paint_table = np.array(list(paints), np.uint8)  # [paints, class and RGB]
    labels = paint_table[:, 0][np.asarray(canvas)[1::SUPERSAMPLE, 1::SUPERSAMPLE]]
    coverage = canvas.point([0] + [255] * 255).reduce(SUPERSAMPLE)
    canvas.putpalette(paint_table[:, 1:].tobytes())
    colors = canvas.convert("RGB").reduce(SUPERSAMPLE)
    return np.float32(colors), np.float32(coverage)[..., None] / 255, labels
