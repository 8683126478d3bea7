"""What the colours of masks are taken for, in whole folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import CELEBAMASK, Classes, parse_classes
from jaxparse.classes.palettes import PASCAL
from jaxparse.data.masks import read_label, write_mask
from tests.refusal import refuses

PARTS = {"names": ["background", "skin", "brows", "eyes"]}
PARTS["from"] = {"celebamask": {"left_brow": "brows", "right_brow": "brows", "*": "background"}}
PARTS["from"]["celebamask"] |= {"left_eye": "eyes", "right_eye": "eyes"}
TABLES = {
    "parts": PARTS,
    "plain": {"names": PARTS["names"]},
    "beard": {
        "names": ["background", "hair", "beard"],
        "from": {"celebamask": {"*": "background"}},
    },
    "first": {"names": ["hair", "skin", "background"], "from": {"celebamask": {"*": "background"}}},
}
RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def table(data: dict) -> Classes:
    return parse_classes(data, "mine", "mine.json")


def save(path: Path, values: list[int], palette: list, mode: str = "P") -> Path:
    """A mask [1, N] of those indices."""
    picture = Image.fromarray(np.array([values], np.uint8))
    picture.putpalette([value for colour in palette for value in colour])
    picture.convert(mode).save(path)
    return path


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_masks_in_pascals_palette_are_read_by_index(tmp_path: Path, name: str, mode: str) -> None:
    mine = table(TABLES[name])
    for count in range(2, len(mine) + 1):
        values = list(range(count))
        path = save(tmp_path / f"{count}.png", values, PASCAL, mode)
        assert read_label(path, mine).tolist() == [values]


def test_renumbered_masks_in_pascals_colours(tmp_path: Path) -> None:
    """An editor keeps the colours in use: of skin and eyes, not of brows."""
    path = save(tmp_path / "a.png", [0, 1, 2], [PASCAL[0], PASCAL[3], PASCAL[1]])
    assert read_label(path, table(PARTS)).tolist() == [[0, 3, 1]]


def test_a_folder_is_read_in_one_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Colours count if all masks have the table's; else none of them is read by colour."""
    data = {"names": ["background", "skin", "hair"], "colours": ["#000000", "#ff0000", "#00ff00"]}
    mine, unknown = table(data), (9, 9, 9)
    palette = [BLACK, GREEN, RED, unknown]
    paths = [save(tmp_path / f"{i}.png", [0, 1, 2], palette) for i in range(3)]
    assert [read_label(path, mine).tolist() for path in paths] == [[[0, 2, 1]]] * 3
    save(tmp_path / "3.png", [0, 1, 2], [BLACK, GREEN, unknown])
    assert [read_label(path, mine).tolist() for path in paths] == [[[0, 1, 2]]] * 3
    ways = [message.partition(str(tmp_path))[2] for message in caplog.messages]
    assert "colours of the classes mine" in ways[0] and "indices" in ways[1] and len(ways) == 2


def test_a_mask_without_the_colours_of_its_folder_is_refused(tmp_path: Path) -> None:
    mine = table({"names": ["a", "b", "c"], "colours": ["#000000", "#ff0000", "#00ff00"]})
    for i in range(100):
        save(tmp_path / f"{i:03}.png", [0, 1, 2], [BLACK, GREEN, RED])
    # The fourth is no sample.
    path = save(tmp_path / "003.png", [0, 1, 2], [BLACK, GREEN, (9, 9, 9)])
    with refuses(path, (9, 9, 9), "mine"):
        read_label(path, mine)


def test_black_is_the_class_that_has_it(tmp_path: Path) -> None:
    mine = table({"names": ["skin", "background"], "colours": ["#ff0000", "#000000"]})
    path = save(tmp_path / "a.png", [0, 0], [BLACK], "RGB")
    assert read_label(path, mine).tolist() == [[1, 1]]


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    pixels = np.arange(3 * 400, dtype=np.uint16).reshape(20, 20, 3).astype(np.uint8)
    pixels[..., 2] = np.arange(20)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with refuses(tmp_path / "a.png", "256 colours", "nearest"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_values_of_a_table(tmp_path: Path, mode: str) -> None:
    data = {"names": ["background", "skin", "hair"], "values": {"255": "hair", "7": "skin"}}
    mine = table(data | {"values": data["values"] | {"9": None}})
    path = save(tmp_path / "a.png", [0, 255, 7, 9], [(i, i, i) for i in range(256)], mode)
    assert read_label(path, mine).tolist() == [[0, 2, 1, 255]]
    for value in (1, 2, 8):  # skin and hair are at no other value
        path = save(tmp_path / "a.png", [value], [(i, i, i) for i in range(256)], "L")
        with refuses(path, f"holds {value}", "0, 7, 9 and 255", "values"):
            read_label(path, mine)
    write_mask(tmp_path / "b.png", np.array([[0, 1, 2, 255]], np.uint8), mine)
    assert read_label(tmp_path / "b.png", mine).tolist() == [[0, 1, 2, 255]]


def test_values_that_no_class_has_are_all_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", [0, 7, 11], [BLACK], "L")
    with refuses(path, "holds 7, 11", "0..2 and 255", '"values": {"7": "hair"}'):
        Image.fromarray(np.array([[0, 7, 11]], np.uint8)).save(path)
        read_label(path, table({"names": ["background", "skin", "hair"]}))


def test_masks_hold_the_names_of_their_classes(tmp_path: Path) -> None:
    """Tables of one name and other classes are others; renamed ones are the same."""
    path, label = tmp_path / "a.png", np.array([[0, 1]], np.uint8)
    names = ["hair", "skin"]
    write_mask(path, label, parse_classes({"names": names}, "classes", "a/classes.json"))
    renamed = parse_classes({"names": names}, "renamed", "renamed.json")
    np.testing.assert_array_equal(read_label(path, renamed), label)
    other = parse_classes({"names": names[::-1]}, "classes", "b/classes.json")
    with refuses(path, "hair, skin", "skin, hair", "--predictions-are FILE.json"):
        read_label(path, other, flag="--predictions-are")
    np.testing.assert_array_equal(read_label(path, other, renamed), 1 - label)
    with refuses(path, "hair, skin", "celebamask", "FILE.json"):
        read_label(path)


def test_masks_of_older_versions_hold_the_name_of_their_table(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_mask(path, np.array([[0, 1]], np.uint8), table(TABLES["plain"]))
    with Image.open(path) as picture:
        picture.info.pop("class_names")
        from PIL.PngImagePlugin import PngInfo

        note = PngInfo()
        note.add_text("classes", "mine")
        picture.save(path, pnginfo=note)
    assert read_label(path, table(TABLES["parts"])).tolist() == [[0, 1]]
    with refuses(path, "mine", "celebamask", "FILE.json"):
        read_label(path, CELEBAMASK)


def test_a_renumbered_mask_among_many_that_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sample of the folder shows the palette of the table alone."""
    mine = table({"names": ["a", "b", "c"], "colours": ["#000000", "#ff0000", "#00ff00"]})
    for i in range(100):
        save(tmp_path / f"{i:03}.png", [0, 1, 2], [BLACK, RED, GREEN])
    path = save(tmp_path / "003.png", [0, 1], [BLACK, GREEN])
    assert read_label(path, mine).tolist() == [[0, 2]]
    assert [read_label(tmp_path / f"{i:03}.png", mine).tolist() for i in (0, 4)] == [
        [[0, 1, 2]]
    ] * 2
    assert len(caplog.messages) == 1 and str(tmp_path) in caplog.messages[0]
