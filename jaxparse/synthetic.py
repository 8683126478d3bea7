"""Drawn faces with exact masks: the built-in data set, of any count and size, without files.

A picture is a pure function of (seed, index, size). Parts yield polygons, painted from back to
front on a canvas three times as fine as the picture. The image is the box-filtered colours (soft
edges), the label the class at each pixel's centre (hard edges), so the two cannot disagree.

Sizes and frequencies follow CelebAMask-HQ (arXiv:1907.11922), but glasses, hats and necklaces are
two to three times as frequent, so that 4000 pictures teach them. Colours overlap between classes:
the likeliest class of a pixel's colour (histogram of 32 bins per channel, from 1000 faces at
128x128) reaches 7.5 mIoU on 200 other faces, and 8.1 with the rare classes weighted up.

    python -m jaxparse.synthetic --output DIR --count 4000
"""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from jaxparse.images import write_image, write_mask

# Indices of classes.NAMES.
(BACKGROUND, SKIN, NOSE, GLASSES, LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, LEFT_EAR) = range(9)
(RIGHT_EAR, MOUTH, UPPER_LIP, LOWER_LIP, HAIR, HAT, EARRING, NECKLACE, NECK, CLOTH) = range(9, 19)

Shape = tuple[int, np.ndarray, np.ndarray]  # class, RGB 0..255, outline [N, 2]

SUPERSAMPLE = 3  # odd, so that a pixel's centre is the centre of a canvas pixel
SIDES = (1, -1)  # of x: the person's left is at image right
VAL_START = 1_000_000  # index of the first face to evaluate on, beyond any training face


def table(text: str, columns: int = 2) -> np.ndarray:
    """[N, columns] of the numbers in `text`."""
    return np.array(text.split(), float).reshape(-1, columns)


SKIN_TONES = table("246 214 190 222 172 138 200 146 108 168 114 80 132 86 60 96 62 46", 3)
HAIR_TONES = table("28 22 22 52 36 28 92 62 42 140 98 62 196 152 100 222 190 140", 3)
HAIR_TONES = np.concatenate([HAIR_TONES, table("146 70 40 128 122 118 206 200 194", 3)])
JEWEL_TONES = table("214 172 80 200 200 206 238 230 220 60 130 150 150 30 50", 3)
IRIS_TONES = table("70 45 30 110 75 45 90 120 150 95 120 80", 3)

# Outlines of the +x half, from the top, in the head's frame: origin between the eyes and the tip
# of the nose, y down, 1 is the picture's side at scale 1.
FACE = table("0 -.36 .14 -.335 .225 -.24 .255 -.08 .246 .08 .212 .21 .14 .315 .055 .36")
EAR = table(".24 -.05 .275 -.08 .306 -.06 .311 -.01 .295 .045 .28 .095 .25 .1")
NOSE_OUTLINE = table(".02 -.06 .022 0 .036 .06 .068 .105 .066 .135 .03 .15")
NECK_OUTLINE = table(".15 .1 .14 .3 .155 .4 .3 .47 .7 .57 .7 1")
# Front hair of one side, from its end to the crown: outer edge x y, inner edge x y.
TUCKED_HAIR = table(
    ".262 0 .243 0  .272 -.05 .236 -.04  .29 -.12 .225 -.12  .29 -.24 .2 -.19  "
    ".18 -.37 .12 -.25  0 -.39 0 -.27",
    4,
)
LOOSE_HAIR = table(
    ".31 .5 .24 .5  .35 .2 .225 .2  .35 0 .238 0  .32 -.2 .225 -.14  "
    ".18 -.37 .12 -.25  0 -.39 0 -.27",
    4,
)
RECEDING_HAIR = table(
    ".262 0 .243 0  .28 -.05 .236 -.04  .285 -.12 .225 -.12  .27 -.2 .215 -.24  "
    ".18 -.33 .17 -.325  0 -.355 0 -.35",
    4,
)
# Soft light on the face: centre x y, radii x y, brightness; mirrored where x > 0.
FACE_LIGHT = table(
    "0 -.2 .14 .08 .1   0 .04 .02 .09 .13   .055 .06 .02 .06 -.12   0 .175 .06 .02 -.14 "
    ".1 -.065 .06 .025 -.14   .15 .09 .06 .05 .1   .25 .12 .06 .2 -.22   0 .3 .06 .03 .08",
    5,
)


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


@dataclass(frozen=True)
class Person:
    """What several parts share."""

    face: Pose
    skull: Pose  # the face's without yaw
    body: Pose  # nearly upright
    skin: np.ndarray  # RGB, 0..255
    hair: np.ndarray
    iris: np.ndarray
    eye: tuple[float, float]  # distance from the middle, half height
    style: str  # of the hair: bald, receding, short or long
    loose: np.ndarray  # whether hair falls over the left, the right ear
    glasses: bool
    hat: bool
    earring: bool
    necklace: bool


def draw_person(rng: np.random.Generator) -> Person:
    """Someone, somewhere in the picture."""
    tilt, yaw = np.clip(rng.normal(0, (0.1, 0.2)), -0.4, 0.4)
    glasses, hat, earring, necklace = rng.random(4) < (0.15, 0.12, 0.32, 0.15)
    scale = np.clip(rng.normal(0.98 if necklace else 1.1, 0.08), 0.8, 1.3)
    x, y = (0.5, 0.45 if necklace else 0.51) + 0.04 * np.tanh(rng.normal(size=2))
    face = Pose(scale, tilt, yaw, x, y)
    # Moved sideways, for the neck to meet the tilted chin.
    body = Pose(scale, 0.3 * tilt, 0, x - 0.2 * scale * (np.sin(tilt) - np.sin(0.3 * tilt)), y)
    tone = rng.random() ** 1.5 * (len(SKIN_TONES) - 1)
    skin = [np.interp(tone, np.arange(len(SKIN_TONES)), channel) for channel in SKIN_TONES.T]
    style = str(rng.choice(["bald", "receding", "short", "long"], p=[0.04, 0.06, 0.35, 0.55]))
    return Person(
        face,
        dataclasses.replace(face, yaw=0),
        body,
        skin=skin * rng.uniform(0.92, 1.05, 3),
        hair=rng.choice(HAIR_TONES) * rng.uniform(0.8, 1.2) + rng.normal(0, 6, 3),
        iris=rng.choice(IRIS_TONES),
        eye=(rng.uniform(0.096, 0.11), rng.uniform(0.019, 0.027)),
        style=style,
        loose=(rng.random(2) < (0.3 if earring else 0.6)) & (style == "long"),
        glasses=glasses,
        hat=hat,
        earring=earring,
        necklace=necklace,
    )


def random_color(rng: np.random.Generator, person: Person) -> np.ndarray:
    """Of cloth, hats and things behind: half the time one that skin or hair has."""
    kind = rng.random()
    if kind < 0.25:
        return person.skin * rng.uniform(0.7, 1.1) + rng.normal(0, 8, 3)
    if kind < 0.5:
        return rng.choice(HAIR_TONES) + rng.normal(0, 12, 3)
    return rng.uniform(30, 255) * rng.uniform(1 - rng.uniform(0, 0.9), 1, 3)


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


def strands(
    rng: np.random.Generator, color: np.ndarray, outer: np.ndarray, inner: np.ndarray
) -> Iterator[Shape]:
    """Hair between two curves [N, 2], combed along them."""
    yield between(HAIR, color, outer, inner)
    tones = rng.uniform(0.65, 1.35, 6)  # few, for a canvas holds 256 paints
    for share in rng.uniform(0.04, 0.96, 18):
        start, stop = np.sort(rng.integers(0, len(outer) + 1, 2))
        if stop - start > 3:
            curve = (outer * (1 - share) + inner * share)[start:stop]
            taper = np.sin(np.linspace(0.1, 3, len(curve))) * rng.uniform(0.004, 0.014)
            yield HAIR, color * rng.choice(tones), ribbon(curve, taper)


def back_hair(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Long hair behind neck and shoulders."""
    if person.style == "long":
        half = table("0 -.44 .23 -.38 .35 -.15 .36 .1 .32 .2")
        half[3:, 0] += rng.uniform(-0.04, 0.06)
        half[4] += rng.uniform((-0.02, 0), (0.06, 0.6))
        outer = smooth(mirrored(half) + rng.normal(0, 0.012, (10, 2)))
        yield HAIR, person.hair * 0.6, outer
        yield from strands(rng, person.hair * 0.75, outer, outer * (0.4, 0.9))


def neck(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Neck and shoulders, in the chin's shadow."""
    wide = (rng.uniform(0.9, 1.15), 1)
    yield NECK, person.skin * 0.93, smooth(mirrored(NECK_OUTLINE)) * wide
    yield NECK, person.skin * 0.78, ellipse(0, 0.32, 0.13, 0.1) * wide
    for side in SIDES:
        bone = smooth(table(".03 .55 .12 .52 .26 .51") * (side, 1), closed=False)
        yield NECK, person.skin * 0.82, ribbon(bone, 0.008)


def cloth(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """A garment with an angular or a round neckline, high or low, in stripes or folds."""
    depth = rng.uniform(0.56, 0.75) if person.necklace else rng.uniform(0.36, 0.7)
    left = table("-.8 .6 -.5 .48 -.3 .45 -.13 .41 0 0")
    left[3, 0] -= rng.uniform(0, 0.11)
    left[4] = left[3, 0] * rng.uniform(0.3, 0.9), depth
    top = smooth(np.concatenate([left, left[::-1] * (-1, 1)]), False, int(rng.choice([1, 6])))
    bottom = np.stack([np.linspace(-0.8, 0.8, len(top)), np.full(len(top), 1.2)], 1)
    color = random_color(rng, person)
    yield between(CLOTH, color, top, bottom)
    other = random_color(rng, person) if rng.random() < 0.4 else color * 0.75
    for share in np.arange(0.02, 0.7, rng.uniform(0.04, 0.14)):
        yield CLOTH, other, ribbon(top * (1 - share) + bottom * share, rng.uniform(0.004, 0.02))


def necklace(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Beads on a chain, at times with a pendant."""
    if person.necklace:
        drop, color = rng.uniform(0.43, 0.49), rng.choice(JEWEL_TONES) * rng.uniform(0.7, 1.1)
        left = table("-.145 .36 -.12 0 -.06 0") + ((0, 0), (0, drop - 0.06), (0, drop - 0.015))
        chain = smooth(np.concatenate([left, [(0, drop)], left[::-1] * (-1, 1)]), False)
        yield NECKLACE, color * 0.8, ribbon(chain, rng.uniform(0.018, 0.026))
        for x, y in chain[::2]:
            yield NECKLACE, color * 1.1, ellipse(x, y, 0.009, 0.009)
        if rng.random() < 0.5:
            yield NECKLACE, color, ellipse(0, drop + 0.02, 0.022, 0.03)


def ears(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Ears, and earrings under them."""
    long, wide, width = rng.uniform((0.035, 0.022, 0.95), (0.065, 0.03, 1.05))
    stud, drop = ellipse(0.29, 0.1, wide, wide), ellipse(0.292, 0.1 + long, wide, long)
    hoop = ribbon(ellipse(0.3, 0.085 + long, long, long), 0.018)
    jewel, color = (stud, drop, hoop)[rng.integers(3)], rng.choice(JEWEL_TONES) * 0.95
    for side, label in zip(SIDES, (LEFT_EAR, RIGHT_EAR), strict=True):
        outline = smooth(EAR) * (side * width, 1)
        yield label, person.skin * 0.95, outline
        yield label, person.skin * 0.75, (outline - (side * 0.275, 0)) * 0.6 + (side * 0.275, 0)
        if person.earring:
            yield EARRING, color, jewel * (side, 1)


def skin(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """The oval of the face, at times with a beard, which counts as skin."""
    outline = smooth(mirrored(FACE))
    outline[:, 0] *= np.interp(outline[:, 1], (0, 0.25), (1, rng.uniform(0.88, 1.08)))
    outline[:, 1] *= np.interp(outline[:, 1], (0.1, 0.35), (1, rng.uniform(0.95, 1.04)))
    yield SKIN, person.skin, outline
    if rng.random() < 0.15:
        outer = outline[outline[:, 1] > 0.02]
        inward = np.interp(outer[:, 1:], (0.02, 0.2), (0.04, rng.uniform(0.25, 0.45)))
        inner = outer + inward * ((0, 0.18) - outer)
        color = person.skin + (person.hair - person.skin) * rng.uniform(0.2, 0.8)
        yield between(SKIN, color, outer, inner)
        yield SKIN, color, ellipse(0, 0.19, 0.1, 0.025)


def mouth(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Two lips; in every other picture, teeth and the dark between them."""
    x = np.linspace(-1, 1, 21)
    bulge, bow = 1 - x * x, np.interp(np.abs(x), (0, 0.25, 1), (0.8, 1, 0.9))
    gap = rng.uniform(0.02, 0.065) if rng.random() < 0.55 else 0.0
    top = 0.225 + rng.uniform(-0.01, 0.035) * bulge - 0.3 * gap
    lips = rng.uniform((0.085, 0.024, 0.038, 0.4), (0.115, 0.036, 0.052, 0.8))
    half_width, thin, thick, teeth = lips
    heights = (top - thin * bulge**0.7 * bow, top, top + gap * teeth * bulge, top + gap * bulge)
    heights += (top + (gap + thick) * bulge**0.8,)
    edges = (np.stack([x * half_width, height], 1) for height in heights)
    nose_edge, upper, tooth_edge, lower, chin_edge = edges
    red = person.skin * rng.uniform((0.85, 0.5, 0.55), (1.05, 0.85, 0.85))
    yield between(UPPER_LIP, red * 0.9, nose_edge, upper)
    yield between(LOWER_LIP, red, lower, chin_edge)
    if gap:
        yield between(MOUTH, np.array((90, 30, 32)), upper, lower)
        yield between(MOUTH, np.array((232, 224, 212)), upper, tooth_edge)


def nose(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Skin, told apart by little more than its shading, wings and nostrils."""
    shape = rng.uniform((0.85, 0.92), (1.15, 1.05))
    yield NOSE, person.skin * 0.98, smooth(mirrored(NOSE_OUTLINE)) * shape
    for side in SIDES:
        yield NOSE, person.skin * 0.45, ellipse(side * 0.03, 0.137, 0.014, 0.007) * shape
        wing = table(".052 .095 .062 .115 .055 .135") * (side, 1)
        yield NOSE, person.skin * 0.8, ribbon(wing * shape, 0.006)


def eye(person: Person, label: int, side: int) -> Iterator[Shape]:
    """An almond: lashes, white, iris, pupil, glint."""
    x, (apart, height) = np.linspace(-1, 1, 17), person.eye
    middle = (side * apart, -0.04)
    upper = np.stack([x * 0.052, -height * (1 - x * x) ** 0.8], 1)
    lower = upper * (1, -0.7)
    yield between(label, person.skin * 0.3, upper + middle, lower + middle)
    yield between(label, np.array((226, 220, 214)), upper * 0.84 + middle, lower * 0.84 + middle)
    for color, radius in ((person.iris, 0.95), (person.iris * 0.25, 0.45)):
        disc = ellipse(0, -0.1 * height, radius * height, radius * height)
        lids = (np.interp(disc[:, 0], upper[:, 0], lid[:, 1]) * 0.84 for lid in (upper, lower))
        disc[:, 1] = np.clip(disc[:, 1], *lids)
        yield label, color, disc + middle
    yield label, np.full(3, 245), ellipse(0.006, -0.005, 0.005, 0.005) + middle


def eyes(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Eyes below creases and brows."""
    arch, thick = rng.uniform((-0.004, 0.024), (0.018, 0.036))
    color = person.hair * 0.6 + person.skin * rng.uniform(0.05, 0.25)
    crease = smooth(table("-.05 -.055 0 -.08 .05 -.055"), closed=False)
    line = table(".04 -.108 .09 -.116 .135 -.117 .172 -.098")
    line[1:3, 1] -= arch
    brow = smooth(line, closed=False)
    width = thick * np.interp(np.arange(len(brow)), (0, 7, 18), (0.8, 1, 0.3))
    for side in SIDES:
        yield SKIN, person.skin * 0.75, ribbon(crease + (side * person.eye[0], 0), 0.006)
        yield from eye(person, LEFT_EYE if side > 0 else RIGHT_EYE, side)
        yield LEFT_BROW if side > 0 else RIGHT_BROW, color, ribbon(brow * (side, 1), width)


def glasses(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Over the eyes, which show through two thirds of the lenses and still count as glasses."""
    if not person.glasses:
        return
    lens, rim = rng.uniform((0.076, 0.05), (0.09, 0.072)), rng.uniform(0.008, 0.014)
    frame, dark = random_color(rng, person) * 0.6, rng.random() < 0.35
    glass = frame * 0.6 if dark else person.skin * rng.uniform(0.85, 1, 3)
    for side in SIDES:
        arm = table("0 -.05 .25 -.045") + ((person.eye[0] + lens[0] - 0.01, 0), (0, 0))
        yield GLASSES, frame, ribbon(arm * (side, 1), 0.016)
        for color, (wide, high) in ((frame, lens), (glass, lens - rim)):
            yield GLASSES, color, ellipse(side * person.eye[0], -0.03, wide, high, 0.75)
        if not dark:
            yield from eye(person, GLASSES, side)
    yield GLASSES, frame, ribbon(smooth(table("-.04 -.04 0 -.052 .04 -.04"), False), 0.014)


def front_hair(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Hair round the face: crown, fringe, and what falls over ears and eyes."""
    if person.style == "bald":
        return
    volume, length, low, part = rng.uniform((0.02, -0.2, -0.03, -0.1), (0.08, 0.2, 0.02, 0.1))
    kind = rng.choice(["open", "fringe", "left lock", "right lock"], p=[0.55, 0.25, 0.1, 0.1])
    low += rng.uniform(0.08, 0.14) if kind == "fringe" else 0
    halves = []
    for loose, lock in zip(person.loose, ("left lock", "right lock"), strict=True):
        half = (LOOSE_HAIR if loose else TUCKED_HAIR).copy()
        half[0, [1, 3]] += length * loose
        half[4:, [1, 3]] += (-volume, low)
        half[5, 2] += part
        if kind == lock:  # over one brow, at times over the eye
            fall = rng.uniform(0, 0.22)
            half[2:5, 2:] = (0.228, fall - 0.05), (0.19, fall - 0.14), (0.09, 0.6 * fall - 0.1)
            half[4, 2] -= 0.3 * fall
        halves.append(half)
    receding = person.style == "receding"
    left, right = (RECEDING_HAIR, RECEDING_HAIR) if receding else halves
    curve = smooth(np.concatenate([left, right[-2::-1] * (-1, 1, -1, 1)]), closed=False)
    outer, inner = curve[:, :2], curve[:, 2:]
    curl = rng.uniform(0, 0.04) * np.sin(rng.uniform(0.5, 1.6) * np.arange(len(outer)))
    outer = outer * (1 + curl[:, None])
    inner = inner + (0.1 * np.sin(person.face.yaw), 0)  # the hairline turns with the face
    yield from strands(rng, person.hair, outer, inner)
    for tip in rng.integers(20, 41, 0 if receding else 10):  # loose ends on the forehead
        strand = np.stack([outer[tip] * 0.35 + inner[tip] * 0.65, inner[tip]])
        strand[1] += rng.uniform((-0.01, 0), (0.01, 0.03))
        yield HAIR, person.hair * 0.85, ribbon(strand, np.array([0.04, 0.004]))


def hat(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Over the hair, with a band, a brim or a visor."""
    if not person.hat:
        return
    color, other = random_color(rng, person), random_color(rng, person)
    edge, high, wide = rng.uniform((-0.2, -0.58, 0.33), (-0.14, -0.46, 0.37))
    half = np.array([(0, high), (wide * 0.65, high + 0.03), (wide, -0.3), (wide, edge)])
    yield HAT, color, smooth(mirrored(half))
    for x in (-0.6, -0.2, 0.2, 0.6):  # seams
        seam = np.array([(0.3 * x, high + 0.03), (x, -0.3), (x, edge)]) * (wide, 1)
        yield HAT, color * 0.85, ribbon(smooth(seam, closed=False), 0.006)
    reach, thick = table("1.03 .07 1.5 .07 .9 .11")[rng.integers(3)]
    bend = np.array([(-wide * reach, edge), (0, edge - 0.025), (wide * reach, edge)])
    yield HAT, other if rng.random() < 0.5 else color * 0.7, ribbon(smooth(bend, False), thick)


# From back to front: part, its pose, its height above the face.
PARTS = (
    (back_hair, "skull", 0.0),
    (neck, "body", 0.0),
    (cloth, "body", 0.0),
    (necklace, "body", 0.0),
    (ears, "face", -0.04),
    (skin, "skull", 0.0),
    (mouth, "face", 0.02),
    (nose, "face", 0.04),
    (eyes, "face", 0.0),
    (glasses, "face", 0.0),
    (front_hair, "skull", 0.0),
    (hat, "skull", 0.0),
)


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


def draw_background(person: Person, rng: np.random.Generator, size: int) -> np.ndarray:
    """Clutter in the colours of skin, hair and cloth, out of focus: f32 [size, size, 3]."""
    canvas = Image.new("RGB", (128, 128))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, 128, 128), fill=_rgb(random_color(rng, person)))
    for shape in rng.integers(0, 3, rng.integers(4, 16)):
        color = _rgb(random_color(rng, person))
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
    slope, strength = rng.normal(0, 0.3, 2), rng.uniform(0.6, 1.4)
    light = 1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5) + rng.normal(0, 0.025, (64, 64))
    for middle_x, middle_y, wide, high, bright in FACE_LIGHT:
        for side in SIDES if middle_x else (1,):
            [spot] = person.face.place(np.array([(side * middle_x, middle_y)]), 0.03)
            distance = ((x - spot[0]) / wide) ** 2 + ((y - spot[1]) / high) ** 2
            light += strength * bright * np.exp(-distance / person.face.scale**2)
    light = Image.fromarray(np.float32(light)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(light)[..., None] * np.float32(rng.uniform(0.85, 1.12, 3))


def draw_face(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image u8 [size, size, 3] RGB and label u8 [size, size] with values 0..18.

    The same face at every size, but for the noise.
    """
    rng = np.random.default_rng((seed, index))
    person = draw_person(rng)
    shapes = (
        (label, color, getattr(person, pose).place(points, lift))
        for part, pose, lift in PARTS
        for label, color, points in part(person, rng)
    )
    colors, coverage, label = render(shapes, size)
    image = colors + (1 - coverage) * draw_background(person, rng, size)
    image *= draw_light(person, rng, size)
    blur = ImageFilter.GaussianBlur(rng.uniform(0, 0.004) * size)
    image = np.float32(Image.fromarray(image.clip(0, 255).astype(np.uint8)).filter(blur))
    image += rng.uniform(1, 9) * rng.standard_normal(image.shape, np.float32)
    return image.clip(0, 255).astype(np.uint8), label


@dataclass(frozen=True)
class Arguments:
    """Writes drawn faces as JPEG and palette PNG, in the layout of the CelebAMask-HQ challenge."""

    output: Path
    """Folder to write: train/train_image, train/train_mask, val/val_image, val/val_mask."""
    count: int
    """Pictures to train on."""
    val_count: int = 200
    """Pictures to evaluate on; none of them is a training picture."""
    size: int = 512
    """Height and width in pixels."""
    seed: int = 0
    """Another seed gives other faces."""


def write_faces(args: Arguments) -> Iterator[Path]:
    """Writes the files; yields each picture's path. Raises ValueError on arguments out of range."""
    if not 1 <= args.count <= VAL_START or args.val_count < 0 or args.size < 1 or args.seed < 0:
        raise ValueError(
            f"cannot draw {args.count} + {args.val_count} faces of size {args.size}, seed "
            f"{args.seed}; give a count of 1..{VAL_START}, a size >= 1, a val_count and seed >= 0"
        )
    train = (("train", index) for index in range(args.count))
    val = (("val", index) for index in range(VAL_START, VAL_START + args.val_count))
    for split, index in itertools.chain(train, val):
        image, label = draw_face(args.seed, index, args.size)
        path = args.output / split / f"{split}_image" / f"{index:07d}.jpg"
        write_image(path, image)
        write_mask(args.output / split / f"{split}_mask" / f"{index:07d}.png", label)
        yield path


def main(args: Arguments) -> None:
    """Writes the files under a progress bar; one line and exit code 1 on an error."""
    from rich.progress import track

    try:
        for _ in track(write_faces(args), "drawing", total=args.count + args.val_count):
            pass
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Arguments))
