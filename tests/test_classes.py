import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.classes import (
    CELEBAMASK,
    Classes,
    becomes,
    classes_json,
    convert_label,
    exchange_sides,
    load_classes,
    orders_of,
    parse_classes,
    shipped_tables,
)
from jaxparse.classes.__main__ import named, print_classes
from jaxparse.classes.palettes import PASCAL
from jaxparse.config import Config
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.masks import read_label
from jaxparse.data.sources import SYNTHETIC_SEEDS, SyntheticSource
from jaxparse.synthetic import write_faces
from jaxparse.train import data_lines
from jaxparse.weights.files import SHIPPED
from tests.refusal import refuses

# The other projects' own lists of parts, by the names of CelebAMask-HQ's files; 0 is background.
OWN_LISTS = {
    # CelebAMask-HQ: face_parsing/Data_preprocessing/g_mask.py
    "celebamask": "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair "
    "hat ear_r neck_l neck cloth",
    # face-parsing.PyTorch: prepropess_data.py
    "zllrunning": "skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip "
    "neck neck_l cloth hair hat",
    # FaRL: farl/datasets/celebamask_hq.py, label_type "all"
    "facer": "neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair "
    "eye_g hat ear_r neck_l",
}


HAIR = {"names": ["other", "hair"], "from": {"celebamask": {"*": "other"}}}


def table(data: dict, name: str = "mine") -> Classes:
    return parse_classes(data, name, f"{name}.json")


@pytest.mark.parametrize("order", OWN_LISTS)
def test_orders_are_those_of_the_projects_own_lists(order: str) -> None:
    parts = OWN_LISTS["celebamask"].split()
    places = (0, *(1 + parts.index(part) for part in OWN_LISTS[order].split()))
    assert becomes(load_classes(order), CELEBAMASK) == places == orders_of(CELEBAMASK)[order]
    values = np.arange(19, dtype=np.uint8)[None]
    there = convert_label(values, CELEBAMASK, load_classes(order))
    np.testing.assert_array_equal(convert_label(there, load_classes(order), CELEBAMASK), values)


def test_orders_are_of_the_same_classes_only() -> None:
    assert orders_of(load_classes("lapa")).keys() == {"lapa", "helen"}
    assert orders_of(table(HAIR)) == {}


@pytest.mark.parametrize("name", shipped_tables())
def test_mirroring_exchanges_left_and_right(name: str) -> None:
    classes, other = load_classes(name), {"left": "right", "right": "left"}
    for name, mirrored in zip(classes.names, classes.mirrored, strict=True):
        side, _, part = name.partition("_")
        assert classes.names[mirrored] == (f"{other[side]}_{part}" if side in other else name)
    label = np.array([[*range(len(classes)), 255]], np.uint8)
    exchanged = exchange_sides(label, classes)
    assert exchanged[0].tolist() == [*classes.mirrored, 255]


@pytest.mark.parametrize("name", shipped_tables())
def test_no_two_classes_share_a_colour_and_names_keep_theirs(name: str) -> None:
    classes = load_classes(name)
    assert len(set(classes.colours) | {(255, 255, 255)}) == len(classes) + 1
    for each, colour in zip(classes.names, classes.colours, strict=True):
        assert colour == CELEBAMASK.colours[CELEBAMASK.index(each)]


def test_merging_ignoring_and_steps_between_tables() -> None:
    hair, lapa = table(HAIR), load_classes("lapa")
    assert becomes(CELEBAMASK, hair) == (0,) * 13 + (1,) + (0,) * 5
    skin, glasses, ear, hair_there = (
        CELEBAMASK.index(n) for n in ("skin", "eye_glasses", "left_ear", "hair")
    )
    found = becomes(CELEBAMASK, lapa)
    assert [found[i] for i in (skin, glasses, ear, hair_there)] == [1, 255, 0, 10]
    # By way of celebamask, and ignored pixels stay ignored.
    facer = load_classes("facer")
    label = np.array([[facer.index("hair"), facer.index("eye_glasses"), facer.index("neck"), 255]])
    assert convert_label(label.astype(np.uint8), facer, lapa).tolist() == [[10, 255, 0, 255]]
    assert convert_label(label.astype(np.uint8), facer, hair).tolist() == [[1, 0, 0, 255]]
    with refuses("lapa", "celebamask", "from"):
        becomes(lapa, CELEBAMASK)
    with refuses("mine", "lapa", "from"):
        becomes(hair, lapa)


def test_a_table_survives_its_json(tmp_path: Path) -> None:
    (tmp_path / "hair.json").write_text(json.dumps(HAIR))
    (tmp_path / "bald.json").write_text(
        json.dumps(
            {
                "names": ["hairy", "bald"],
                "colours": ["#102030", "#00ff7f"],
                "weights": {"bald": 2.5},
                "values": {"255": "bald", "3": "hairy", "4": None},
                "from": {"hair.json": {"hair": "hairy", "other": None}},
            }
        )
    )
    bald = load_classes(tmp_path / "bald.json")
    again = parse_classes(json.loads(json.dumps(classes_json(bald))), "x", "elsewhere/x.json")
    assert again == bald and again.name == "bald" and hash(again) == hash(bald)
    assert again.colours == ((16, 32, 48), (0, 255, 127)) and again.weights == (1, 2.5)
    assert becomes(CELEBAMASK, again) == tuple(0 if i == 13 else 255 for i in range(19))
    assert [source.name for source, _ in again.sources] == ["hair"]
    assert again.values == ((3, 0), (4, 255), (255, 1))


def test_colours_and_pairs_by_default() -> None:
    mine = table({"names": ["void", "left_hand", "right_hand", "left_foot"]})
    assert mine.pairs == ((1, 2),) and len(set(mine.colours)) == 4
    assert table({"names": ["a", "b"], "pairs": [["a", "b"]]}).pairs == ((0, 1),)
    assert table({"names": ["left_a", "right_a"], "pairs": []}).pairs == ()
    many = table({"names": [f"class {i}" for i in range(255)]})
    assert len(set(many.colours) | {(255, 255, 255)}) == 256 and many.colours[1] == (128, 0, 0)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ([1], ["[1]", '{"names": [']),
        ({"names": "background"}, ["names", "background", "["]),
        ({"names": {"0": "a", "2": "b"}}, ["names", "0, 2", "0 to 1", "values"]),
        ({"names": {"background": 0, "hair": 1}}, ["names", "background", "0 to 1"]),
        ({"names": ["a", "b\x1b[31m"]}, ["\\x1b"]),
        ({"names": ["a", "b\u2028"]}, ["\\u2028"]),
        ({"names": ["a", "b"], "name": 3}, ["name", "3"]),
        ({"names": ["a", "b"], "colours": {"a": "#000000"}}, ["colours", "["]),
        ({"names": ["a", "b"], "colours": [[0, 0, 0], [1, 1, 1]]}, ["[0, 0, 0]", "#rrggbb"]),
        ({"names": ["a", "b"], "pairs": ["ab"]}, ["pairs", "'ab'", "left_eye"]),
        ({"names": ["a", "b"], "pairs": [["a", "b", "a"]]}, ["pairs", "left_eye"]),
        ({"names": ["a", "b"], "weights": [1, 2]}, ["weights", "[1, 2]", "{"]),
        ({"names": ["a", "b"], "weights": {"a": True}}, ["weights", "True"]),
        ({"names": ["a", "b"], "weights": {"a": 0, "b": 0}}, ["weights", "all 0"]),
        ({"names": ["a", "b"], "from": "celebamask"}, ["from", "'celebamask'", '{"celebamask"']),
        ({"names": ["a", "b"], "from": {"celebamask": "a"}}, ["from", "'a'", '{"celebamask"']),
        ({"names": ["a", "b"], "values": [0, 255]}, ["values", '{"255"']),
        ({"names": ["a", "b"], "values": {"256": "b"}}, ["values", "256", '"255"']),
        ({"names": ["a", "b"], "values": {"07": "b"}}, ["values", "07", '"255"']),
        ({"names": ["a", "b"], "values": {"255": "c"}}, ["values", "c"]),
        ({"names": ["a", "b"], "values": {"0": "b"}}, ["values", "a", "0"]),
        ({"names": ["a"]}, ["1", "2 to 255"]),
        ({"names": ["a", "a"]}, ["a", "twice"]),
        ({"names": ["a", "b=c"]}, ["b=c"]),
        ({"names": ["a", 3]}, ["3"]),
        ({"name": "x", "nmes": []}, ["nmes"]),
        ({"names": ["a", "b"], "colours": ["#000000"]}, ["colours", "2"]),
        ({"names": ["a", "b"], "colours": ["#000000", "#000000"]}, ["colours", "different"]),
        ({"names": ["a", "b"], "colours": ["#000000", "red"]}, ["red", "#rrggbb"]),
        ({"names": ["a", "b"], "colours": ["#000000", "#00zz00"]}, ["#00zz00", "#rrggbb"]),
        ({"names": ["a", "b"], "pairs": [["a", "c"]]}, ["pairs", "c"]),
        ({"names": ["a", "b"], "pairs": [["a", "a"]]}, ["pairs", "twice"]),
        ({"names": ["a", "b"], "weights": {"a": -1}}, ["weights", "-1"]),
        ({"names": ["a", "b"], "weights": {"c": 1}}, ["weights", "c"]),
        ({"names": ["a", "b"], "from": {"nothing": {}}}, ["nothing", "celebamask"]),
        ({"names": ["a", "b"], "from": {"x" * 999: {}}}, ["xxx", "celebamask"]),
        ({"names": ["a", "b"], "from": {"celebamask": {}}}, ["background", "celebamask", "*"]),
        ({"names": ["a", "b"], "from": {"celebamask": {"tail": "a"}}}, ["tail"]),
        ({"names": ["a", "b"], "from": {"celebamask": {"*": "c"}}}, ["from", "c"]),
    ],
)
def test_what_is_wrong_with_a_table_is_named(data: object, shown: list[str]) -> None:
    with refuses("mine.json", *shown):
        table(data)


def test_names_as_hugging_face_writes_them() -> None:
    names = {"1": "skin", "0": "background", "2": "hair"}
    expected = ("background", "skin", "hair")
    assert table({"names": names}).names == expected
    config = {"architectures": ["X"], "id2label": names, "label2id": {}, "num_channels": 3}
    assert table(config).names == expected
    assert table(config | {"values": {"255": "hair"}}).values == ((0, 0), (1, 1), (255, 2))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_tables_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "lips.json"
    path.write_text('{"names": ["fond", "lèvre"]}', encoding=encoding)
    assert load_classes(path).names == ("fond", "lèvre")


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "lips.json"
    path.write_text('{"names": ["fond", "lèvre"]}', encoding="latin-1")
    with refuses(path, "UTF-8"):
        load_classes(path)
    path.write_text('{"names": ["a", "b"], "values": {"9": "a", "255": "b", "9": "b"}}')
    with refuses(path, "9", "twice"):
        load_classes(path)
    (tmp_path / "noext").write_text(json.dumps(HAIR))
    for load in (load_classes, named):
        with refuses(tmp_path / "noext", "rename", "noext.json"):
            load(str(tmp_path / "noext"))


def test_tables_that_name_themselves_or_each_other(tmp_path: Path) -> None:
    for name, source in (("self", "self"), ("a", "b"), ("b", "a")):
        data = HAIR | {"from": {f"{source}.json": {"*": "other"}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    for name in ("self", "a"):
        with refuses(tmp_path, f"{name}.json", "from") as caught:
            load_classes(tmp_path / f"{name}.json")
        assert len(str(caught.value)) < 300


def test_a_table_of_many_classes_made_from_as_many() -> None:
    """Each has a colour of its own, none white, and none another index's of PASCAL's palette."""
    for count in (150, 255):
        first = {"names": [f"a{i}" for i in range(count)]}
        places = {f"a{i}": f"b{i}" for i in range(count)}
        data = {"names": [f"b{i}" for i in range(count)], "from": {"first": places}}
        second = table(data | {"tables": {"first": first}})
        assert len({*second.colours, (255, 255, 255)}) == count + 1
        names = [*first["names"][1:], "a0"]
        turned = table({"names": names, "from": {"first": {}}, "tables": {"first": first}})
        assert len({*turned.colours, (255, 255, 255)}) == count + 1
        for classes in (second, turned):
            for index, colour in enumerate(classes.colours):
                assert colour not in PASCAL or PASCAL.index(colour) in (0, index)


def test_background_is_the_class_of_that_name() -> None:
    assert CELEBAMASK.background == 0
    for names, index in (
        (["hair", "Background"], 1),
        (["hair", "other", "bg"], 2),
        (["hair", "other"], 1),
        (["hair", "skin"], 255),
    ):
        assert table({"names": names}).background == index


def test_halves_without_a_partner_are_said() -> None:
    assert CELEBAMASK.halves_line is None
    names = ["left_eye", "r_brow", "braue_links", "hair"]
    line = table({"names": names}).halves_line
    assert "left_eye, r_brow" in line and "pairs" in line
    config = Config(data_dir="synthetic", classes=table({"names": names}), mirror_probability=0.5)
    assert data_lines(config) == [f"warning: {line}"]
    assert data_lines(replace(config, mirror_probability=0.0)) == []
    assert data_lines(replace(config, classes=CELEBAMASK)) == []
    pairs = [["left_eye", "r_brow"]]
    assert table({"names": names, "pairs": pairs}).halves_line is None


def test_the_tables_of_the_documentation() -> None:
    """hair.json is four lines; parts8.json has eight classes, and glasses are ignored."""
    page = (Path(__file__).parent.parent / "docs" / "classes.md").read_text(encoding="utf-8")
    hair, parts = re.findall(r"```json\n(.*?)```", page, re.S)
    assert hair.count("\n") == 4 and json.loads(hair) == HAIR
    parts8 = table(json.loads(parts))
    assert len(parts8) == 8 and parts8.pairs == ()
    names = {"left_eye": "eyes", "upper_lip": "mouth", "nose": "nose", "cloth": "background"}
    places = becomes(CELEBAMASK, parts8)
    assert all(parts8.names[places[CELEBAMASK.index(a)]] == b for a, b in names.items())
    assert places[CELEBAMASK.index("eye_glasses")] == 255


def test_drawn_faces_in_another_table(tmp_path: Path) -> None:
    hair, seed = table(HAIR), SYNTHETIC_SEEDS["train"]
    drawn = draw_face(seed, 0, 64)[1]
    source = SyntheticSource(seed, 1, 64, hair)
    np.testing.assert_array_equal(source.label(0), drawn == 13)
    write_faces(tmp_path, 1, 0, 64, classes=hair)
    path = tmp_path / "train/train_mask/0000000.png"
    np.testing.assert_array_equal(read_label(path, hair), draw_face(0, 0, 64)[1] == 13)
    with refuses(path, "mine", "--labels-are"):
        read_label(path)
    with refuses("celebamask", "numbers"):
        SyntheticSource(seed, 1, 64, table({"names": ["a", "b"]}, "numbers"))


def test_colours_of_another_table_are_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mask in celebamask's colours, read for a network of hair."""
    label = draw_face(0, 0, 64)[1]
    Image.fromarray(CELEBAMASK.palette[label]).save(tmp_path / "m.png")
    for _ in range(2):
        np.testing.assert_array_equal(read_label(tmp_path / "m.png", table(HAIR)), label == 13)
    assert len(caplog.messages) == 1
    assert str(tmp_path) in caplog.messages[0] and "celebamask" in caplog.messages[0]


def test_values_beyond_the_table_are_named(tmp_path: Path) -> None:
    Image.fromarray(draw_face(0, 0, 64)[1]).save(tmp_path / "m.png")
    with refuses(tmp_path / "m.png", "0..1 and 255", "mine", "--labels-are"):
        read_label(tmp_path / "m.png", table(HAIR))


def test_there_is_no_such_table(tmp_path: Path) -> None:
    with refuses("lappa", "lapa", ".json"):
        load_classes("lappa")
    with refuses(tmp_path / "x.json", "lapa"):
        load_classes(tmp_path / "x.json")


def test_the_command_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hair.json").write_text(json.dumps(HAIR))
    for name, words in {
        str(tmp_path / "hair.json"): ("hair: 2 classes", "from celebamask"),
        str(SHIPPED): ("celebamask: 19 classes", "left_eye", "right_eye"),
        "lapa": ("lapa: 11 classes", "ignored", "eye_glasses"),
    }.items():
        print_classes(name)
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)
        assert "celebamask, facer, helen, lapa, zllrunning" in printed
    with refuses("lappa", "lapa"):
        print_classes("lappa")
