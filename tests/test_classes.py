import numpy as np
import pytest

from jaxparse.classes import (
    LABEL_ORDERS,
    MIRRORED,
    NAMES,
    NUM_CLASSES,
    PALETTE,
    from_official,
    order_names,
    to_official,
)

# The other projects' own lists of parts, by the names of CelebAMask-HQ's files; 0 is background.
OWN_LISTS = {
    # CelebAMask-HQ: face_parsing/Data_preprocessing/g_mask.py
    "official": "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat "
    "ear_r neck_l neck cloth",
    # face-parsing.PyTorch: prepropess_data.py
    "zllrunning": "skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip "
    "neck neck_l cloth hair hat",
    # FaRL: farl/datasets/celebamask_hq.py, label_type "all"
    "facer": "neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair "
    "eye_g hat ear_r neck_l",
}


@pytest.mark.parametrize("order", LABEL_ORDERS)
def test_orders_are_those_of_the_projects_own_lists(order: str) -> None:
    parts = OWN_LISTS["official"].split()
    classes = [0, *(1 + parts.index(part) for part in OWN_LISTS[order].split())]
    assert list(LABEL_ORDERS[order]) == classes
    values = np.arange(256, dtype=np.uint8)[None]
    official = to_official(values, order)
    assert [NAMES[index] for index in official[0, :NUM_CLASSES]] == list(order_names(order))
    np.testing.assert_array_equal(official[0, NUM_CLASSES:], values[0, NUM_CLASSES:])
    np.testing.assert_array_equal(from_official(official, order), values)


def test_mirroring_exchanges_left_and_right() -> None:
    other = {"left": "right", "right": "left"}
    for name, mirrored in zip(NAMES, MIRRORED, strict=True):
        side, _, part = name.partition("_")
        assert NAMES[mirrored] == (f"{other[side]}_{part}" if side in other else name)


def test_no_two_classes_share_a_colour() -> None:
    assert len(np.unique(PALETTE, axis=0)) == NUM_CLASSES
