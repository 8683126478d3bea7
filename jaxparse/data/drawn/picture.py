"""Drawn faces with exact masks: the built-in data set, of any count and size, without files.

A picture is a pure function of (seed, index, size). The parts of a face are polygons, painted from
back to front on a canvas three times as fine as the picture. The image is the box-filtered colours
(soft edges), the label the class at each pixel's centre (hard edges), so the two cannot disagree.
Classes share colours, so that colour is not enough to tell them apart.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from jaxparse.data.drawn.drawing import points, render, to_rgb
from jaxparse.data.drawn.portrait import SIDES, Person, draw_parts, random_color, random_person

# Soft light on the face, in the head's frame: centre x y, radii x y, brightness; mirrored if x > 0.
FACE_LIGHT = points(
    "0 -.2 .14 .08 .1, 0 .04 .02 .09 .13, .055 .06 .02 .06 -.12, 0 .175 .06 .02 -.14,"
    ".1 -.065 .06 .025 -.14, .15 .09 .06 .05 .1, .25 .12 .06 .2 -.22, 0 .3 .06 .03 .08"
)


def draw_background(person: Person, rng: np.random.Generator, size: int) -> np.ndarray:
    """Clutter in the colours of skin, hair and cloth, out of focus: f32 [size, size, 3]."""
    canvas = Image.new("RGB", (128, 128), to_rgb(random_color(rng, person)))
    draw = ImageDraw.Draw(canvas)
    for shape in rng.integers(0, 3, rng.integers(4, 16)):
        color = to_rgb(random_color(rng, person))
        x, y, wide, high = rng.uniform((-40, -40, 8, 8), (128, 128, 70, 90))
        if shape == 0:
            draw.ellipse((x, y, x + wide, y + high), fill=color)
        elif shape == 1:
            draw.rectangle((x, y, x + wide, y + high), fill=color)
        else:
            draw.line((x, y, x + 2 * wide, y + 2 * high - 90), color, int(rng.integers(2, 10)))
    canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 5)))
    return np.float32(canvas.resize((size, size), Image.Resampling.BILINEAR))


def draw_light(person: Person, rng: np.random.Generator, size: int) -> np.ndarray:
    """Brightness around 1, f32 [size, size, 3]: lamps, the relief of the face, texture."""
    x, y = np.arange(0.5, 64) / 64, np.arange(0.5, 64)[:, None] / 64
    face = person.poses["face"]
    slope, strength = rng.normal(0, 0.3, 2), rng.uniform(0.6, 1.4)
    light = 1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5) + rng.normal(0, 0.025, (64, 64))
    for middle_x, middle_y, wide, high, bright in FACE_LIGHT:
        for side in SIDES if middle_x else (1,):
            [spot] = face.place(np.array([(side * middle_x, middle_y)]), 0.03)
            distance = ((x - spot[0]) / wide) ** 2 + ((y - spot[1]) / high) ** 2
            light += strength * bright * np.exp(-distance / face.scale**2)
    light = Image.fromarray(np.float32(light)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(light)[..., None] * np.float32(rng.uniform(0.85, 1.12, 3))


def draw_face(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image u8 [size, size, 3] RGB and label u8 [size, size] of the classes celebamask.

    The face is the same at every size; the noise is not.
    """
    rng = np.random.default_rng((seed, index))
    person = random_person(rng)
    colors, coverage, label = render(draw_parts(person, rng), size)
    image = colors + (1 - coverage) * draw_background(person, rng, size)
    image *= draw_light(person, rng, size)
    blur = ImageFilter.GaussianBlur(rng.uniform(0, 0.004) * size)
    image = np.float32(Image.fromarray(image.clip(0, 255).astype(np.uint8)).filter(blur))
    image += rng.uniform(1, 9) * rng.standard_normal(image.shape, np.float32)
    return image.clip(0, 255).astype(np.uint8), label
