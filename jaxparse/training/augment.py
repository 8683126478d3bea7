"""Augmentation of training pictures, inside the compiled step.

One affine warp per picture, then the colours in the order of mmsegmentation's
PhotoMetricDistortion, then grey, blur and cut-out (DeVries and Taylor 2017, arXiv:1708.04552).
Unlike mmsegmentation, colours stay float32 throughout: nothing is rounded to 8 bits on the way, and
hue turns by any angle, not by steps of 2 degrees.

Each picture has a key of its own, from the seed, the step and its place in the whole batch, so that
a resumed run, gradient accumulation and several devices see the same pictures.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse.classes import IGNORE_LABEL
from jaxparse.config import Config
from jaxparse.devices import Batch
from jaxparse.training.compose import paste_accessories, random_background, soften

# Folded into a step's key: dropout folds in small numbers, the parts of a batch.
STREAM = 2**31
COLOUR_PROBABILITY = 0.5  # of brightness, contrast, saturation and hue each, as in mmsegmentation
BLUR_REACH = 3  # standard deviations at which the Gaussian is cut off
LUMA = (0.299, 0.587, 0.114)  # grey of R, G, B: ITU-R BT.601, as Pillow's mode L

# The numbers in [0, 1) that are drawn for a picture; those with ? decide whether something happens.
NUMBERS = (
    *("mirrored?", "angle?", "angle", "scale", "down", "right", "brightness?", "brightness"),
    *("contrast?", "contrast", "contrast_first?", "saturation?", "saturation", "hue?", "hue"),
    *("grey?", "sigma?", "sigma", "cut?", "hole_y", "hole_x", "composed?"),
)
# Of people before another background: the turn in degrees, the scale, and the further shift by
# which the frame may cut them off.
COMPOSED_DEGREES = 45
COMPOSED_SCALE = (0.3, 1.25)
COMPOSED_SHIFT = 0.1


Planes = list[Array]  # red, green, blue, float32 [H, W] of 0..255: loops over W use whole vectors


class Draw(NamedTuple):
    """What happens to one picture."""

    mirrored: Array  # bool
    angle: Array  # radians, counter-clockwise as seen
    scale: Array  # above 1 enlarges
    shift: Array  # [2] down, right, as shares of height and width
    brightness: Array  # added to 0..255
    contrast: Array  # factor
    contrast_first: Array  # bool: before saturation and hue, or after them
    saturation: Array  # factor
    hue: Array  # degrees
    grey: Array  # bool
    sigma: Array  # of the blur in pixels; 0 is none
    cut: Array  # bool
    hole: Array  # [2] centre of the cut-out square, as shares of height and width
    composed: Array  # bool: before another background


def warps(config: Config) -> bool:
    """Whether pictures are mirrored, rotated, scaled or shifted."""
    chances = config.mirror_probability, config.rotation_probability, config.translation
    chances += (config.compose_probability,)
    return any(chances) or (config.scale_min, config.scale_max) != (1, 1)


def augments(config: Config) -> bool:
    """Whether any augmentation is on."""
    colours = config.brightness, config.contrast, config.saturation, config.hue
    chances = config.grey_probability, config.blur_probability, config.cutout_probability
    chances += (config.paste_probability,)
    return warps(config) or any(colours + chances)


def picture_keys(seed: int, step: Array | int, count: int) -> Array:
    """The key of each of the `count` pictures of the 0-based `step`, all devices together."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), STREAM)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))


def with_keys(batch: Batch, step: Array | int, config: Config) -> Batch:
    """The batch of the 0-based `step`, all devices together, as `augment` takes it.

    What pictures take from others in the batch is done here, before the batch is split.
    """
    batch = batch | {"key": picture_keys(config.seed, step, len(batch["label"]))}
    if config.paste_probability:
        batch = paste_accessories(batch, config)
    if config.compose_probability:
        batch = batch | {"other": jnp.roll(batch["image"], -1, 0)}
    return batch


def draw(key: Array, config: Config) -> Draw:
    """Draws what happens to the picture of `key`."""
    # One call for all: each number keeps its place, whatever else is on.
    numbers = dict(zip(NUMBERS, jax.random.uniform(key, (len(NUMBERS),)), strict=True))

    def happens(name: str, probability: float) -> Array:
        return numbers[f"{name}?"] < probability

    def between(name: str, low: float, high: float) -> Array:
        return low + (high - low) * numbers[name]

    def maybe(name: str, probability: float, low: float, high: float, otherwise: float) -> Array:
        return jnp.where(happens(name, probability), between(name, low, high), otherwise)

    degrees, scale = config.rotation_degrees, between("scale", config.scale_min, config.scale_max)
    angle = maybe("angle", config.rotation_probability, -degrees, degrees, 0)
    composed, (smallest, largest) = happens("composed", config.compose_probability), COMPOSED_SCALE
    if config.compose_probability:
        scale = jnp.where(composed, smallest * (largest / smallest) ** numbers["scale"], scale)
        turned = between("angle", -COMPOSED_DEGREES, COMPOSED_DEGREES)
        angle = jnp.where(composed, turned, angle)
    # Anywhere where an enlarged picture still fills the frame, and a smaller one lies within it.
    reach = jnp.abs(scale - 1) / 2 + config.translation + COMPOSED_SHIFT * composed
    colour = partial(maybe, probability=COLOUR_PROBABILITY)
    contrast, saturation = config.contrast, config.saturation
    return Draw(
        happens("mirrored", config.mirror_probability),
        jnp.deg2rad(angle),
        scale,
        jnp.stack([between("down", -1, 1), between("right", -1, 1)]) * reach,
        colour("brightness", low=-config.brightness, high=config.brightness, otherwise=0),
        colour("contrast", low=1 - contrast, high=1 + contrast, otherwise=1),
        happens("contrast_first", 0.5),
        colour("saturation", low=1 - saturation, high=1 + saturation, otherwise=1),
        colour("hue", low=-config.hue, high=config.hue, otherwise=0),
        happens("grey", config.grey_probability),
        maybe("sigma", config.blur_probability, 0, config.blur_sigma, 0),
        happens("cut", config.cutout_probability),
        jnp.stack([numbers["hole_y"], numbers["hole_x"]]),
        composed,
    )


def source_positions(drawn: Draw, height: int, width: int) -> tuple[Array, Array]:
    """y and x, [H, W], in the original picture of every pixel's centre; a pixel's is at +0.5."""
    down, right = drawn.shift * jnp.array([height, width])
    y = jnp.arange(height)[:, None] + 0.5 - height / 2 - down
    x = jnp.arange(width) + 0.5 - width / 2 - right
    cos, sin = jnp.cos(drawn.angle) / drawn.scale, jnp.sin(drawn.angle) / drawn.scale
    # As seen, with y pointing down, the clockwise turn that undoes a counter-clockwise one.
    y, x = cos * y + sin * x, cos * x - sin * y
    return y + height / 2, jnp.where(drawn.mirrored, -x, x) + width / 2


def warp(
    image: Array,
    label: Array,
    drawn: Draw,
    pairs: Sequence[tuple[int, int]],
    background: int | None = None,
) -> tuple[Array, Array]:
    """Picture uint8 [H, W, 3], bilinear, float32; mask uint8 [H, W], nearest neighbour.

    Pillow's conventions: a pixel whose centre comes from outside the original is 0 and 255; at the
    border the outermost pixels are repeated. A mirrored picture has its left and right exchanged.
    Of a composed one the outermost pixels go on outside: the `background` as that class, others
    as 255.
    """
    height, width = label.shape
    y, x = source_positions(drawn, height, width)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    top, left = jnp.floor(y - 0.5), jnp.floor(x - 0.5)
    below, beyond = (y - 0.5 - top)[..., None], (x - 0.5 - left)[..., None]

    def at(array: Array, y: Array, x: Array) -> Array:
        rows = jnp.clip(y, 0, height - 1).astype(jnp.int32)
        columns = jnp.clip(x, 0, width - 1).astype(jnp.int32)
        return array.at[rows, columns].get(mode="promise_in_bounds")

    def along_row(y: Array) -> Array:
        return at(image, y, left) * (1 - beyond) + at(image, y, left + 1) * beyond

    # A loop, since it ends a fusion: on CPUs XLA would gather again for every colour that is made
    # of the result, at twice the time or more.
    upper, lower = jax.lax.map(along_row, jnp.stack([top, top + 1]))
    image, label = upper * (1 - below) + lower * below, at(label, jnp.floor(y), jnp.floor(x))
    extended = drawn.composed if background is not None else False
    image = jnp.where((inside | extended)[..., None], image, 0)
    kept = inside | extended & (label == background)
    label = jnp.where(kept, label, IGNORE_LABEL)
    return image, jnp.where(drawn.mirrored, exchange_sides(label, pairs), label)


def exchange_sides(label: Array, pairs: Sequence[tuple[int, int]]) -> Array:
    """The classes of a mirrored face: left and right are the person's own."""
    exchanged = label
    for left, right in pairs:  # not a table: comparisons use whole vectors
        exchanged = jnp.where(label == left, right, exchanged)
        exchanged = jnp.where(label == right, left, exchanged)
    return exchanged.astype(label.dtype)


def linear(planes: Planes, factor: Array | float = 1, offset: Array | float = 0) -> Planes:
    """Brightness and contrast: factor · colour + offset, clipped to 0..255."""
    return [jnp.clip(factor * plane + offset, 0, 255) for plane in planes]


def change_saturation(planes: Planes, factor: Array) -> Planes:
    """Multiplies the saturation in HSV, up to 1; hue and value stay."""
    value, chroma = highest(planes), highest(planes) - lowest(planes)
    # A colour's distance from the value is proportional to the saturation, chroma / value.
    factor = jnp.where(factor * chroma > value, value / jnp.maximum(chroma, 1e-6), factor)
    return [value - (value - plane) * factor for plane in planes]


def turn_hue(planes: Planes, degrees: Array) -> Planes:
    """Turns the hue in HSV by degrees, red to yellow to green; saturation and value stay."""
    red, green, blue = planes
    value, chroma = highest(planes), highest(planes) - lowest(planes)
    safe = jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    turned = []
    for start, plane in zip((5, 3, 1), planes, strict=True):
        position = start + sextant + degrees / 60
        position -= 6 * jnp.floor(position / 6)
        share = jnp.clip(jnp.minimum(position, 4 - position), 0, 1)
        turned.append(jnp.where(degrees == 0, plane, value - chroma * share))
    return turned


def highest(planes: Planes) -> Array:
    """V of HSV."""
    return jnp.maximum(jnp.maximum(planes[0], planes[1]), planes[2])


def lowest(planes: Planes) -> Array:
    """V - S V of HSV."""
    return jnp.minimum(jnp.minimum(planes[0], planes[1]), planes[2])


def distort_colours(planes: Planes, drawn: Draw, config: Config) -> Planes:
    """Brightness; contrast, here or last; saturation; hue: each only if its range is above 0."""
    if config.brightness:
        planes = linear(planes, offset=drawn.brightness)
    if config.contrast:
        planes = linear(planes, jnp.where(drawn.contrast_first, drawn.contrast, 1))
    if config.saturation:
        planes = change_saturation(planes, drawn.saturation)
    if config.hue:
        planes = turn_hue(planes, drawn.hue)
    if config.contrast:
        planes = linear(planes, jnp.where(drawn.contrast_first, 1, drawn.contrast))
    return planes


def to_grey(planes: Planes) -> Planes:
    """All three the luma."""
    return [sum(share * plane for share, plane in zip(LUMA, planes, strict=True))] * 3


def blur(planes: Planes, sigma: Array, largest_sigma: float) -> Planes:
    """A Gaussian of `sigma` pixels, reflected at the border; 0 changes nothing."""
    radius = math.ceil(BLUR_REACH * largest_sigma)
    distance = np.arange(-radius, radius + 1)
    weights = jnp.exp(-(distance**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2))
    weights /= weights.sum()

    def blur_plane(plane: Array) -> Array:
        for axis, size in enumerate(plane.shape):
            padding = [(radius, radius) if other == axis else (0, 0) for other in range(2)]
            padded = jnp.pad(plane, padding, mode="reflect")
            parts = [
                jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in distance + radius
            ]
            plane = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        return plane

    # A loop for the reason that `warp` has one: colours would be computed again for every tap.
    return list(jax.lax.map(blur_plane, jnp.stack(planes)))


def put_before(planes: Planes, person: Array, behind: Array) -> Planes:
    """The planes where `person` [H, W] is 1, `behind` [H, W, 3] where it is 0, mixed between."""

    def mix(pair: tuple[Array, Array]) -> Array:
        return person * pair[0] + (1 - person) * pair[1]

    # A loop for the reason that `warp` has one.
    return list(jax.lax.map(mix, (jnp.stack(planes), jnp.moveaxis(behind, -1, 0))))


def in_hole(drawn: Draw, height: int, width: int, size: float) -> Array:
    """bool [H, W]: the pixels whose centre is in the cut-out rectangle, `size` of each side."""
    y = jnp.abs((jnp.arange(height) + 0.5) / height - drawn.hole[0]) < size / 2
    x = jnp.abs((jnp.arange(width) + 0.5) / width - drawn.hole[1]) < size / 2
    return drawn.cut & y[:, None] & x


def augment_picture(
    image: Array, label: Array, drawn: Draw, config: Config, behind: Array | None = None
) -> tuple[Array, Array]:
    """Picture uint8 [H, W, 3] and mask uint8 [H, W] -> picture float32 of 0..255, and mask.

    `behind` [H, W, 3] is what a composed picture has for its background.
    """
    image = image.astype(jnp.float32)
    if warps(config):
        background = None if behind is None else config.classes.index("background")
        image, label = warp(image, label, drawn, config.classes.pairs, background)
    planes = [image[..., index] for index in range(3)]
    if behind is not None:
        person = jnp.maximum(soften(label != background), ~drawn.composed)
        planes = put_before(planes, person, behind)
    planes = distort_colours(planes, drawn, config)
    if config.grey_probability:
        pairs = zip(to_grey(planes), planes, strict=True)
        planes = [jnp.where(drawn.grey, grey, plane) for grey, plane in pairs]
    if config.blur_probability:
        planes = blur(planes, drawn.sigma, config.blur_sigma)
    image = jnp.stack(planes, axis=-1)
    if config.cutout_probability:
        hole = in_hole(drawn, *label.shape, config.cutout_size)
        image = jnp.where(hole[..., None], 0, image)
        if config.cutout_labels == "ignore":
            label = jnp.where(hole, IGNORE_LABEL, label)
    return image, label


def augment(batch: Batch, config: Config) -> Batch:
    """A batch of `with_keys`, image uint8 [B, H, W, 3] and label uint8 [B, H, W] -> {image, label}.

    The image is float32 of 0..255.
    """

    def one(image: Array, label: Array, key: Array, other: Array) -> tuple[Array, Array]:
        behind = None
        if config.compose_probability:
            behind = random_background(jax.random.fold_in(key, 1), other)
        return augment_picture(image, label, draw(key, config), config, behind)

    other = batch.get("other", batch["image"])
    image, label = jax.vmap(one)(batch["image"], batch["label"], batch["key"], other)
    return {"image": image, "label": label}
