import pytest

from jaxparse.classes import classes_named, load_classes, shipped_tables
from jaxparse.classes.spelling import halves

CELEBAMASK = "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip "
CELEBAMASK += "hair hat ear_r neck_l neck cloth"
ZLLRUNNING = "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip "
ZLLRUNNING += "l_lip neck neck_l cloth hair hat"
# facer/face_parsing/farl.py: `rr` is the class that learnt l_ear.
FACER = (
    "background neck face cloth rr lr rb lb re le nose imouth llip ulip hair eyeg hat earr neckl"
)
LAPA = "background,Face Skin,left-eyebrow,right-eyebrow,LeftEye,RightEye,nose,upper lip,"
LAPA += "inner mouth,lower lip,HAIR"


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (CELEBAMASK.split(), "celebamask"),
        (ZLLRUNNING.split(), "zllrunning"),
        (FACER.split(), "facer"),
        (LAPA.split(","), "lapa"),
        *((load_classes(name).names, name) for name in shipped_tables()),
    ],
)
def test_a_table_is_known_by_its_names_in_any_spelling(names: list[str], table: str) -> None:
    assert classes_named(names).names == load_classes(table).names
    changed = [*names[:-2], names[-1], names[-2]]
    assert classes_named(changed) is None and classes_named(names[:-1]) is None
    assert classes_named([*names[:-1], ""]) is None


def test_left_and_right_in_any_spelling() -> None:
    for left, right in (
        *(("l_eye", "r_eye"), ("eye_left", "eye_right"), ("LeftBrow", "RightBrow")),
        *(("left eye", "right eye"), ("eye.L", "eye.R"), ("L-Eye", "R-Eye"), ("LEye", "REye")),
        *(("lefteye", "righteye"), ("leye", "reye"), ("eyeLeft", "EyeRight"), ("lb", "rb")),
        *(
            ("upper_left_lid", "upper_right_lid"),
            ("LEFT_EAR", "RIGHT_EAR"),
            ("ear_l", "ear_r"),
            ("lft eye", "rgt eye"),
        ),
    ):
        names = ("background", right, "bright", left, "hair")
        assert {frozenset(pair) for pair in halves(names)[0]} == {frozenset((left, right))}
        assert halves(names)[1] == []
        assert halves(names[:3] + names[4:])[0] == []


def test_halves_without_a_partner() -> None:
    assert halves(CELEBAMASK.split())[1] == []  # ear_r, neck_l and l_lip are none
    assert halves(["left_eye", "hair", "r_brow"]) == ([], ["left_eye", "r_brow"])
    assert halves(["l_eye", "left_eye", "r_eye"]) == ([], ["l_eye", "left_eye", "r_eye"])
