"""The usual spellings of class names: `l_eye`, `LeftEye` and `eye-left` are all `left_eye`."""

import re
from collections.abc import Sequence

SIDES = {"left": "left", "lft": "left", "l": "left", "right": "right", "rgt": "right", "r": "right"}
# CelebAMask-HQ's names that look like sides, and what would be there if they were.
OFFICIAL = {"ear_r": ("earring", "ear_l"), "neck_l": ("necklace", "neck_r")}
OFFICIAL |= {"l_lip": ("lower_lip", "r_lip")}
# facer exchanges left and right: its `re` is what CelebAMask-HQ and LaPa call the left eye.
FACER = {"re": "left_eye", "le": "right_eye", "rb": "left_brow", "lb": "right_brow"}
FACER |= {"rr": "left_ear", "lr": "right_ear"}
PARTS = {
    "background": "bg bgd backgrounds back_ground",
    "skin": "face face_skin facial_skin",
    "brow": "eyebrow eye_brow",
    "eye_glasses": "eye_g eyeg glass glasses eye_glass eyeglass eyeglasses",
    "earring": "earrings ear_ring ear_rings earr",
    "mouth": "inner_mouth innermouth imouth",
    "upper_lip": "u_lip ulip upperlip",
    "lower_lip": "llip lowerlip",
    "necklace": "neckl",
    "cloth": "clothes clothing",
}
PART_OF = {other: part for part, others in PARTS.items() for other in others.split()}
# Names of what is no part of a face, the likeliest first.
REST = ("background", "other", "others", "rest", "none", "nothing", "void")
REST += ("unlabeled", "unlabelled")
# `lefteye`, `eyeright`, `leye`; not `bright`.
GLUED = re.compile(r"^(left|right)(?=\w{3})|^([lr])(?=eye|brow|ear)|(?<=\w{3})(left|right)$")


def _words(name: str) -> list[str]:
    """`LeftEye_2` -> left, eye, 2."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).lower()
    words = re.sub(r"[\W_]+", " ", apart).split()
    return " ".join(GLUED.sub(r" \g<0> ", word) for word in words).split() or [name]


def _spelling(words: list[str], written: set[str]) -> str:
    joined = "_".join(words)
    meant, other_side = OFFICIAL.get(joined, ("", joined))
    if other_side not in written:
        return meant
    sides = [i for i, word in enumerate(words) if word in SIDES and len(word) > 1]
    sides = sides or [i for i in (0, len(words) - 1) if words[i] in SIDES]  # a letter: at an end
    if len(sides) != 1 or len(words) == 1:
        return FACER.get(joined) or PART_OF.get(joined, joined)
    part = "_".join(words[: sides[0]] + words[sides[0] + 1 :])
    return f"{SIDES[words[sides[0]]]}_{PART_OF.get(part, part)}"


def spellings(names: Sequence[str]) -> list[str]:
    """Each name as the tables of this package spell it: left_eye, upper_lip, eye_glasses."""
    words = [_words(name) for name in names]
    written = {"_".join(each) for each in words}
    return [_spelling(each, written) for each in words]


def halves(names: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The names that a mirror image exchanges (left, right), and the halves without a partner."""
    spelt = spellings(names)
    named = {each: name for each, name in zip(spelt, names, strict=True) if spelt.count(each) == 1}
    partners = {left: left.replace("left_", "right_", 1) for left in spelt if left[:5] == "left_"}
    pairs = [(left, right) for left, right in partners.items() if {left, right} <= named.keys()]
    paired = {each for pair in pairs for each in pair}
    sides = [each for each in spelt if each.startswith(("left_", "right_")) and each not in paired]
    lone = [name for name, each in zip(names, spelt, strict=True) if each in sides]
    return [(named[left], named[right]) for left, right in pairs], lone


def background(names: Sequence[str], missing: int) -> int:
    """The index of the class that is called background, or else other or rest; or `missing`."""
    spelt = spellings(names)
    return next((spelt.index(each) for each in REST if each in spelt), missing)
