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

# Value in masks of that order -> name, from the other projects' lists.
KNOWN = {
    "official": {1: "skin", 10: "mouth", 18: "cloth"},
    "zllrunning": {6: "eye_glasses", 9: "earring", 10: "nose", 17: "hair"},
    "facer": {1: "neck", 2: "skin", 9: "left_eye", 14: "hair", 15: "eye_glasses"},
}


@pytest.mark.parametrize("order", LABEL_ORDERS)
def test_orders_are_exact_and_invertible(order: str) -> None:
    assert sorted(order_names(order)) == sorted(NAMES)
    assert {value: order_names(order)[value] for value in KNOWN[order]} == KNOWN[order]
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
