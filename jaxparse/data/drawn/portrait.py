"""A random person as coloured polygons: the parts of a face, their shapes, their order.

Sizes and frequencies follow CelebAMask-HQ (arXiv:1907.11922), but glasses, hats and necklaces are
two to three times as frequent, so that 4000 pictures teach them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxparse.classes import CELEBAMASK
from jaxparse.data.drawn.drawing import (
    Pose,
    Shape,
    band,
    curve,
    ellipse,
    loop,
    mirror,
    points,
    ribbon,
    strands,
)

# Indices of the classes celebamask.
SKIN, NOSE, GLASSES, LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, LEFT_EAR, RIGHT_EAR = range(1, 10)
MOUTH, UPPER_LIP, LOWER_LIP, HAIR, HAT, EARRING, NECKLACE, NECK, CLOTH = range(10, len(CELEBAMASK))

SIDES = (1, -1)  # of x: the person's left is at image right
WEAR_CHANCES = {"glasses": 0.15, "hat": 0.12, "earring": 0.32, "necklace": 0.15}
HAIR_CHANCES = {"bald": 0.04, "receding": 0.06, "short": 0.35, "long": 0.55}

SKIN_TONES = points("246 214 190, 222 172 138, 200 146 108, 168 114 80, 132 86 60, 96 62 46")
HAIR_TONES = points(
    "28 22 22, 52 36 28, 92 62 42, 140 98 62, 196 152 100, 222 190 140, 146 70 40, 128 122 118,"
    "206 200 194"
)
JEWEL_TONES = points("214 172 80, 200 200 206, 238 230 220, 60 130 150, 150 30 50")
IRIS_TONES = points("70 45 30, 110 75 45, 90 120 150, 95 120 80")

# Outlines of the +x half, from the top, in the head's frame: origin between the eyes and the tip
# of the nose, 1 is the picture's side at scale 1.
FACE = points("0 -.36, .14 -.335, .225 -.24, .255 -.08, .246 .08, .212 .21, .14 .315, .055 .36")
EAR = points(".24 -.05, .275 -.08, .306 -.06, .311 -.01, .295 .045, .28 .095, .25 .1")
NOSE_OUTLINE = points(".02 -.06, .022 0, .036 .06, .068 .105, .066 .135, .03 .15")
NECK_OUTLINE = points(".15 .1, .14 .3, .155 .4, .3 .47, .7 .57, .7 1")
# Front hair of one side, from its end to the crown: outer edge x y, inner edge x y.
TUCKED_HAIR = points(
    ".262 0 .243 0, .272 -.05 .236 -.04, .29 -.12 .225 -.12, .29 -.24 .2 -.19,"
    ".18 -.37 .12 -.25, 0 -.39 0 -.27"
)
LOOSE_HAIR = points(
    ".31 .5 .24 .5, .35 .2 .225 .2, .35 0 .238 0, .32 -.2 .225 -.14,"
    ".18 -.37 .12 -.25, 0 -.39 0 -.27"
)
RECEDING_HAIR = points(
    ".262 0 .243 0, .28 -.05 .236 -.04, .285 -.12 .225 -.12, .27 -.2 .215 -.24,"
    ".18 -.33 .17 -.325, 0 -.355 0 -.35"
)


@dataclass(frozen=True)
class Person:
    """What several parts share."""

    poses: dict[str, Pose]  # of the face, the skull (the face's without yaw) and the body
    skin: np.ndarray  # RGB, 0..255
    hair: np.ndarray
    iris: np.ndarray
    eye: tuple[float, float]  # distance from the middle, half height
    style: str  # of the hair, a key of HAIR_CHANCES
    loose: np.ndarray  # whether hair falls over the left, the right ear
    wears: set[str]  # of the keys of WEAR_CHANCES


def random_person(rng: np.random.Generator) -> Person:
    """A random person, placed at random in the picture."""
    tilt, yaw = np.clip(rng.normal(0, (0.1, 0.2)), -0.4, 0.4)
    wears = {thing for thing, chance in WEAR_CHANCES.items() if rng.random() < chance}
    far = "necklace" in wears  # so that the picture shows it
    scale = np.clip(rng.normal(0.98 if far else 1.1, 0.08), 0.8, 1.3)
    x, y = (0.5, 0.45 if far else 0.51) + 0.04 * np.tanh(rng.normal(size=2))
    face = Pose(scale, tilt, yaw, x, y)
    # Nearly upright, and moved sideways so that the neck meets the tilted chin.
    body = Pose(scale, 0.3 * tilt, 0, x - 0.2 * scale * (np.sin(tilt) - np.sin(0.3 * tilt)), y)
    tone = rng.random() ** 1.5 * (len(SKIN_TONES) - 1)
    skin = [np.interp(tone, np.arange(len(SKIN_TONES)), channel) for channel in SKIN_TONES.T]
    style = str(rng.choice(list(HAIR_CHANCES), p=list(HAIR_CHANCES.values())))
    return Person(
        {"face": face, "skull": Pose(scale, tilt, 0, x, y), "body": body},
        skin=skin * rng.uniform(0.92, 1.05, 3),
        hair=rng.choice(HAIR_TONES) * rng.uniform(0.8, 1.2) + rng.normal(0, 6, 3),
        iris=rng.choice(IRIS_TONES),
        eye=(rng.uniform(0.096, 0.11), rng.uniform(0.019, 0.027)),
        style=style,
        loose=(rng.random(2) < (0.3 if "earring" in wears else 0.6)) & (style == "long"),
        wears=wears,
    )


def random_color(rng: np.random.Generator, person: Person) -> np.ndarray:
    """A colour for cloth, hats and the background: half the time one of skin or hair."""
    kind = rng.random()
    if kind < 0.25:
        return person.skin * rng.uniform(0.7, 1.1) + rng.normal(0, 8, 3)
    if kind < 0.5:
        return rng.choice(HAIR_TONES) + rng.normal(0, 12, 3)
    return rng.uniform(30, 255) * rng.uniform(1 - rng.uniform(0, 0.9), 1, 3)


def back_hair(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Long hair behind neck and shoulders."""
    if person.style == "long":
        half = points("0 -.44, .23 -.38, .35 -.15, .36 .1, .32 .2")
        half[3:, 0] += rng.uniform(-0.04, 0.06)
        half[4] += rng.uniform((-0.02, 0), (0.06, 0.6))
        outer = loop(mirror(half) + rng.normal(0, 0.012, (10, 2)))
        yield HAIR, person.hair * 0.6, outer
        yield from strands(rng, HAIR, person.hair * 0.75, outer, outer * (0.4, 0.9))


def neck(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Neck and shoulders, in the chin's shadow."""
    wide = (rng.uniform(0.9, 1.15), 1)
    yield NECK, person.skin * 0.93, loop(mirror(NECK_OUTLINE)) * wide
    yield NECK, person.skin * 0.78, ellipse(0, 0.32, 0.13, 0.1) * wide
    for side in SIDES:
        bone = curve(points(".03 .55, .12 .52, .26 .51") * (side, 1))
        yield NECK, person.skin * 0.82, ribbon(bone, 0.008)


def cloth(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """A garment with an angular or a round neckline, high or low, in stripes or folds."""
    depth = rng.uniform(0.56, 0.75) if "necklace" in person.wears else rng.uniform(0.36, 0.7)
    left = points("-.8 .6, -.5 .48, -.3 .45, -.13 .41, 0 0")
    left[3, 0] -= rng.uniform(0, 0.11)
    left[4] = left[3, 0] * rng.uniform(0.3, 0.9), depth
    top = curve(mirror(left), rng.choice([1, 6]))
    bottom = np.stack([np.linspace(-0.8, 0.8, len(top)), np.full(len(top), 1.2)], 1)
    color = random_color(rng, person)
    yield band(CLOTH, color, top, bottom)
    other = random_color(rng, person) if rng.random() < 0.4 else color * 0.75
    for share in np.arange(0.02, 0.7, rng.uniform(0.04, 0.14)):
        yield CLOTH, other, ribbon(top * (1 - share) + bottom * share, rng.uniform(0.004, 0.02))


def necklace(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Beads on a chain, sometimes with a pendant."""
    if "necklace" in person.wears:
        drop, color = rng.uniform(0.43, 0.49), rng.choice(JEWEL_TONES) * rng.uniform(0.7, 1.1)
        left = points("-.145 .36, -.12 0, -.06 0") + ((0, 0), (0, drop - 0.06), (0, drop - 0.015))
        chain = curve(np.concatenate([left, [(0, drop)], left[::-1] * (-1, 1)]))
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
        outline = loop(EAR) * (side * width, 1)
        yield label, person.skin * 0.95, outline
        yield label, person.skin * 0.75, (outline - (side * 0.275, 0)) * 0.6 + (side * 0.275, 0)
        if "earring" in person.wears:
            yield EARRING, color, jewel * (side, 1)


def skin(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """The oval of the face, sometimes with a beard, which counts as skin."""
    outline = loop(mirror(FACE))
    outline[:, 0] *= np.interp(outline[:, 1], (0, 0.25), (1, rng.uniform(0.88, 1.08)))
    outline[:, 1] *= np.interp(outline[:, 1], (0.1, 0.35), (1, rng.uniform(0.95, 1.04)))
    yield SKIN, person.skin, outline
    if rng.random() < 0.15:
        outer = outline[outline[:, 1] > 0.02]
        inward = np.interp(outer[:, 1:], (0.02, 0.2), (0.04, rng.uniform(0.25, 0.45)))
        inner = outer + inward * ((0, 0.18) - outer)
        color = person.skin + (person.hair - person.skin) * rng.uniform(0.2, 0.8)
        yield band(SKIN, color, outer, inner)
        yield SKIN, color, ellipse(0, 0.19, 0.1, 0.025)


def mouth(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Two lips; in about half of the pictures open, with teeth and the dark mouth."""
    x = np.linspace(-1, 1, 21)
    bulge, bow = 1 - x * x, np.interp(np.abs(x), (0, 0.25, 1), (0.8, 1, 0.9))
    gap = rng.uniform(0.02, 0.065) if rng.random() < 0.55 else 0.0
    top = 0.225 + rng.uniform(-0.01, 0.035) * bulge - 0.3 * gap
    wide, thin, thick, teeth = rng.uniform((0.085, 0.024, 0.038, 0.4), (0.115, 0.036, 0.052, 0.8))
    heights = (top - thin * bulge**0.7 * bow, top, top + gap * teeth * bulge, top + gap * bulge)
    heights += (top + (gap + thick) * bulge**0.8,)
    nose_edge, upper, tooth_edge, lower, chin_edge = (np.stack([x * wide, h], 1) for h in heights)
    red = person.skin * rng.uniform((0.85, 0.5, 0.55), (1.05, 0.85, 0.85))
    yield band(UPPER_LIP, red * 0.9, nose_edge, upper)
    yield band(LOWER_LIP, red, lower, chin_edge)
    if gap:
        yield band(MOUTH, np.array((90, 30, 32)), upper, lower)
        yield band(MOUTH, np.array((232, 224, 212)), upper, tooth_edge)


def nose(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Nearly skin-coloured, set off only by shading, wings and nostrils."""
    shape = rng.uniform((0.85, 0.92), (1.15, 1.05))
    yield NOSE, person.skin * 0.98, loop(mirror(NOSE_OUTLINE)) * shape
    for side in SIDES:
        yield NOSE, person.skin * 0.45, ellipse(side * 0.03, 0.137, 0.014, 0.007) * shape
        wing = points(".052 .095, .062 .115, .055 .135") * (side, 1)
        yield NOSE, person.skin * 0.8, ribbon(wing * shape, 0.006)


def eye(person: Person, label: int, side: int) -> Iterator[Shape]:
    """An almond: lashes, white, iris, pupil, glint."""
    x, (apart, height) = np.linspace(-1, 1, 17), person.eye
    middle = (side * apart, -0.04)
    upper = np.stack([x * 0.052, -height * (1 - x * x) ** 0.8], 1)
    lower = upper * (1, -0.7)
    yield band(label, person.skin * 0.3, upper + middle, lower + middle)
    yield band(label, np.array((226, 220, 214)), upper * 0.84 + middle, lower * 0.84 + middle)
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
    crease = curve(points("-.05 -.055, 0 -.08, .05 -.055"))
    line = points(".04 -.108, .09 -.116, .135 -.117, .172 -.098")
    line[1:3, 1] -= arch
    brow = curve(line)
    width = thick * np.interp(np.arange(len(brow)), (0, 7, 18), (0.8, 1, 0.3))
    for side in SIDES:
        yield SKIN, person.skin * 0.75, ribbon(crease + (side * person.eye[0], 0), 0.006)
        yield from eye(person, LEFT_EYE if side > 0 else RIGHT_EYE, side)
        yield LEFT_BROW if side > 0 else RIGHT_BROW, color, ribbon(brow * (side, 1), width)


def glasses(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Over the eyes, which show through two thirds of the lenses and still count as glasses."""
    if "glasses" not in person.wears:
        return
    lens, rim = rng.uniform((0.076, 0.05), (0.09, 0.072)), rng.uniform(0.008, 0.014)
    frame, dark = random_color(rng, person) * 0.6, rng.random() < 0.35
    glass = frame * 0.6 if dark else person.skin * rng.uniform(0.85, 1, 3)
    for side in SIDES:
        arm = points("0 -.05, .25 -.045") + ((person.eye[0] + lens[0] - 0.01, 0), (0, 0))
        yield GLASSES, frame, ribbon(arm * (side, 1), 0.016)
        for color, (wide, high) in ((frame, lens), (glass, lens - rim)):
            yield GLASSES, color, ellipse(side * person.eye[0], -0.03, wide, high, 0.75)
        if not dark:
            yield from eye(person, GLASSES, side)
    yield GLASSES, frame, ribbon(curve(points("-.04 -.04, 0 -.052, .04 -.04")), 0.014)


def hair_edges(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Front hair from its left end over the crown: [61, 4], outer edge x y, inner edge x y."""
    volume, length, low, part = rng.uniform((0.02, -0.2, -0.03, -0.1), (0.08, 0.2, 0.02, 0.1))
    kind = rng.choice(["open", "fringe", "left lock", "right lock"], p=[0.55, 0.25, 0.1, 0.1])
    low += rng.uniform(0.08, 0.14) if kind == "fringe" else 0
    halves = []
    for loose, lock in zip(person.loose, ("left lock", "right lock"), strict=True):
        half = (LOOSE_HAIR if loose else TUCKED_HAIR).copy()
        half[0, [1, 3]] += length * loose
        half[4:, [1, 3]] += (-volume, low)
        half[5, 2] += part
        if kind == lock:  # over one brow, sometimes over the eye
            fall = rng.uniform(0, 0.22)
            half[2:5, 2:] = (0.228, fall - 0.05), (0.19, fall - 0.14), (0.09, 0.6 * fall - 0.1)
            half[4, 2] -= 0.3 * fall
        halves.append(half)
    left, right = (RECEDING_HAIR, RECEDING_HAIR) if person.style == "receding" else halves
    return curve(np.concatenate([left, right[-2::-1] * (-1, 1, -1, 1)]))


def front_hair(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Hair round the face: crown, fringe, and what falls over ears and eyes."""
    if person.style == "bald":
        return
    outer, inner = np.split(hair_edges(person, rng), 2, axis=1)
    curl = rng.uniform(0, 0.04) * np.sin(rng.uniform(0.5, 1.6) * np.arange(len(outer)))
    outer = outer * (1 + curl[:, None])
    inner = inner + (0.1 * np.sin(person.poses["face"].yaw), 0)  # the hairline turns with the face
    yield from strands(rng, HAIR, person.hair, outer, inner)
    for tip in rng.integers(20, 41, 0 if person.style == "receding" else 10):  # loose ends
        strand = np.stack([outer[tip] * 0.35 + inner[tip] * 0.65, inner[tip]])
        strand[1] += rng.uniform((-0.01, 0), (0.01, 0.03))
        yield HAIR, person.hair * 0.85, ribbon(strand, np.array([0.04, 0.004]))


def hat(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """Over the hair, with a band, a brim or a visor."""
    if "hat" not in person.wears:
        return
    color, other = random_color(rng, person), random_color(rng, person)
    edge, high, wide = rng.uniform((-0.2, -0.58, 0.33), (-0.14, -0.46, 0.37))
    half = np.array([(0, high), (wide * 0.65, high + 0.03), (wide, -0.3), (wide, edge)])
    yield HAT, color, loop(mirror(half))
    for x in (-0.6, -0.2, 0.2, 0.6):  # seams
        seam = np.array([(0.3 * x, high + 0.03), (x, -0.3), (x, edge)]) * (wide, 1)
        yield HAT, color * 0.85, ribbon(curve(seam), 0.006)
    reach, thick = points("1.03 .07, 1.5 .07, .9 .11")[rng.integers(3)]
    bend = np.array([(-wide * reach, edge), (0, edge - 0.025), (wide * reach, edge)])
    yield HAT, other if rng.random() < 0.5 else color * 0.7, ribbon(curve(bend), thick)


# From back to front: part, its pose, its height above the face (the ears are behind it).
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


def draw_parts(person: Person, rng: np.random.Generator) -> Iterator[Shape]:
    """The whole person from back to front, outlines in picture sides."""
    for part, pose, lift in PARTS:
        for label, color, outline in part(person, rng):
            yield label, color, person.poses[pose].place(outline, lift)
