"""Coloured polygons: outlines as arrays, smooth curves through them, a canvas to paint them on.

A figure has a frame of its own; a Pose places it in the picture, whose sides are 1 long. x points
right, y down.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Shape = tuple[int, np.ndarray, np.ndarray]  # class, RGB 0..255, outline [N, 2]

SUPERSAMPLE = 3  # odd, so that a pixel's centre is the centre of a canvas pixel


def points(text: str) -> np.ndarray:
    """[rows, columns] of the numbers in `text`: a comma between rows, spaces between columns."""
    return np.array([row.split() for row in text.split(",")], float)


def mirror(half: np.ndarray) -> np.ndarray:
    """The whole outline [2N, 2] of one whose half on one side of x = 0 is [N, 2]."""
    return np.concatenate([half, half[::-1] * (-1, 1)])


def ellipse(x: float, y: float, wide: float, high: float, roundness: float = 1.0) -> np.ndarray:
    """Outline [25, 2], the first point again at its end; roundness below 1 squares it."""
    angle = np.linspace(0, 2 * np.pi, 25)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.sign(circle) * np.abs(circle) ** roundness * (wide, high) + (x, y)


def _spline(points: np.ndarray, steps: int) -> np.ndarray:
    """Catmull-Rom curve [N * steps, D] through all of [N + 3, D] points but the outermost."""
    t = np.arange(steps)[:, None] / steps
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    windows = np.stack([points[i : len(points) - 3 + i] for i in range(4)], 1)  # [N, 4, D]
    return (np.concatenate(weights, 1) / 2 @ windows).reshape(-1, points.shape[1])


def loop(points: np.ndarray) -> np.ndarray:
    """Closed smooth curve [6N, 2] through [N, 2] points."""
    return _spline(np.concatenate([points[-1:], points, points[:2]]), 6)


def curve(points: np.ndarray, steps: int = 6) -> np.ndarray:
    """Open smooth curve [(N - 1) * steps + 1, D] from the first to the last of [N, D] points."""
    inner = _spline(np.concatenate([points[:1], points, points[-1:]]), steps)
    return np.concatenate([inner, points[-1:]])


def ribbon(points: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Outline [2N, 2] of a brush stroke along [N, 2]; `width` may vary, [N]."""
    steps = np.concatenate([points[1:] - points[:-1], points[-1:] - points[-2:-1]])
    normals = steps[:, ::-1] * (-0.5, 0.5) / (np.hypot(*steps.T)[:, None] + 1e-9)
    offset = normals * np.reshape(width, (-1, 1))
    return np.concatenate([points + offset, (points - offset)[::-1]])


def band(label: int, color: np.ndarray, first: np.ndarray, second: np.ndarray) -> Shape:
    """The area between two curves [N, 2] that run the same way."""
    return label, color, np.concatenate([first, second[::-1]])


def strands(
    rng: np.random.Generator, label: int, color: np.ndarray, outer: np.ndarray, inner: np.ndarray
) -> Iterator[Shape]:
    """The area between two curves [N, 2], streaked along them in tones of `color`."""
    yield band(label, color, outer, inner)
    tones = rng.uniform(0.65, 1.35, 6)  # few, because a canvas holds 256 paints
    for share in rng.uniform(0.04, 0.96, 18):
        start, stop = np.sort(rng.integers(0, len(outer) + 1, 2))
        if stop - start > 3:
            line = (outer * (1 - share) + inner * share)[start:stop]
            taper = np.sin(np.linspace(0.1, 3, len(line))) * rng.uniform(0.004, 0.014)
            yield label, color * rng.choice(tones), ribbon(line, taper)


@dataclass(frozen=True)
class Pose:
    """Where a figure is in the picture, and how it is turned."""

    scale: float
    tilt: float  # radians
    yaw: float  # radians; above 0 the figure looks to image right
    x: float  # of the frame's origin, in picture sides
    y: float

    def place(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """[N, 2] figure's frame -> [N, 2] picture sides; `lift` is the height above its surface."""
        x, y = points.T
        # It bulges like a ball of radius 0.3: with the yaw its middle moves, its sides foreshorten.
        depth = np.sqrt(np.maximum(0.09 - x * x, 0)) - 0.15 + lift
        x = x * np.cos(self.yaw) + depth * np.sin(self.yaw)
        across = x * np.cos(self.tilt) - y * np.sin(self.tilt)
        down = x * np.sin(self.tilt) + y * np.cos(self.tilt)
        return np.stack([across * self.scale + self.x, down * self.scale + self.y], 1)


def to_rgb(color: np.ndarray) -> tuple[int, ...]:
    """A colour in Pillow's form: whole numbers, clipped to 0..255."""
    return tuple(np.clip(color, 0, 255).astype(int).tolist())


def render(shapes: Iterable[Shape], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours f32 [H, W, 3], coverage f32 [H, W, 1] (0..1), label u8 [H, W] of square pictures.

    Outlines are in picture sides; later shapes hide earlier ones, and uncovered pixels are black
    and class 0. A pixel of the canvas is the number of a paint: a class with a colour.
    """
    side = size * SUPERSAMPLE
    canvas, paints = Image.new("L", (side, side)), {(0, 0, 0, 0): 0}
    draw = ImageDraw.Draw(canvas)
    for label, color, points in shapes:
        number = paints.setdefault((label, *to_rgb(color)), len(paints))
        # Pillow's whole coordinates are the centres of pixels.
        draw.polygon((points * side - 0.5).ravel().tolist(), fill=number)
    assert len(paints) <= 256, f"{len(paints)} paints; a canvas holds 256"
    paint_table = np.array(list(paints), np.uint8)  # [paints, class and RGB]
    labels = paint_table[:, 0][np.asarray(canvas)[1::SUPERSAMPLE, 1::SUPERSAMPLE]]
    coverage = canvas.point([0] + [255] * 255).reduce(SUPERSAMPLE)
    canvas.putpalette(paint_table[:, 1:].tobytes())
    colors = canvas.convert("RGB").reduce(SUPERSAMPLE)
    return np.float32(colors), np.float32(coverage)[..., None] / 255, labels
