"""What users call weights; the hub is a folder (tests/foreign.py)."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse import Parser
from jaxparse.classes import CELEBAMASK, Classes, load_classes
from jaxparse.classes.__main__ import named
from jaxparse.config import load_experiment, save_config
from jaxparse.convert_weights import convert_file
from jaxparse.push import push
from jaxparse.weights.conversion import convert
from jaxparse.weights.files import SHIPPED, network_fields, read_weights
from jaxparse.weights.find import find_init_weights, find_weights, load_network, run_of
from tests import foreign
from tests.conftest import Nano
from tests.foreign import offline_hub, require_equal, write
from tests.refusal import refuses
from tests.torch_files import write_zip

OFFICIAL = "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair"
OFFICIAL += " hat ear_r neck_l neck cloth"
ZLLRUNNING = "Background Skin LeftBrow RightBrow LeftEye RightEye EyeGlasses LeftEar RightEar"
ZLLRUNNING += " Earring Nose Mouth UpperLip LowerLip Neck Necklace Cloth Hair Hat"
CITYSCAPES = "road sidewalk building wall fence pole light sign vegetation terrain sky person rider"
CITYSCAPES += " car truck bus train motorcycle bicycle"


def repository(folder: Path, names: str = OFFICIAL, **preprocessing: object) -> Path:
    """A folder as save_pretrained leaves it."""
    folder.mkdir(exist_ok=True)
    write(folder / "model.safetensors", foreign.mmseg())
    about = {"id2label": dict(enumerate(names.split()))}
    (folder / "config.json").write_text(json.dumps(about))
    if preprocessing:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline_hub(tmp_path / "cache", monkeypatch, {})


def classifier(path: Path) -> np.ndarray:
    return read_weights(path)[0]["decode_head.conv_seg.bias"]


def in_order(names: list[str]) -> np.ndarray:
    """The classifier's biases of a file whose classes are these names, in celebamask's order."""
    bias = foreign.mmseg()["decode_head.conv_seg.bias"]
    return bias[[names.index(name) for name in CELEBAMASK.names]]


def test_names_of_a_known_order_decide(tmp_path: Path) -> None:
    """Not the number of the classes: 19 are also zllrunning's and Cityscapes'."""
    for text, order in ((OFFICIAL, CELEBAMASK), (ZLLRUNNING, load_classes("zllrunning"))):
        path = find_weights(repository(tmp_path / order.name, text))
        assert network_fields(path)["classes"] == CELEBAMASK
        np.testing.assert_array_equal(classifier(path), in_order(list(order.names)))
    backwards = find_weights(repository(tmp_path / "b", " ".join(OFFICIAL.split()[::-1])))
    np.testing.assert_array_equal(classifier(backwards), in_order(list(CELEBAMASK.names[::-1])))


def test_unknown_names_are_refused_or_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = repository(tmp_path / "my city", CITYSCAPES)
    command = f"--checkpoint '{folder}' --own-classes"
    for read in (find_weights, Parser.load, lambda path: convert_file(weights=str(path))):
        with refuses(folder, "road, sidewalk", command, "--classes celebamask"):
            read(folder)
    convert_file(weights=str(folder), own_classes=True)
    found = network_fields("weights/my city.safetensors")["classes"]
    assert (found.name, found.names) == ("my city", tuple(CITYSCAPES.split()))
    bias = foreign.mmseg()["decode_head.conv_seg.bias"]
    np.testing.assert_array_equal(classifier(Path("weights/my city.safetensors")), bias)
    convert_file(weights=str(folder), classes=CELEBAMASK, output=Path("given.safetensors"))
    assert network_fields("given.safetensors")["classes"] == CELEBAMASK


@pytest.mark.parametrize("key", ["dataset_meta", "CLASSES"])
def test_names_in_a_checkpoint_of_mmsegmentation(tmp_path: Path, key: str) -> None:
    names = ZLLRUNNING.split()
    meta = {key: {"classes": names} if key == "dataset_meta" else names}
    path = write_zip(tmp_path / "f.pth", {"meta": meta, "state_dict": foreign.mmseg()})
    convert_file(weights=str(path), output=tmp_path / "ours.safetensors")
    expected = in_order(list(load_classes("zllrunning").names))
    np.testing.assert_array_equal(classifier(tmp_path / "ours.safetensors"), expected)


def test_without_names_the_usual_table_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = repository(tmp_path / "f", " ".join(f"LABEL_{index}" for index in range(19)))
    for _ in range(2):  # converted, and read again
        with pytest.warns(UserWarning, match="celebamask.*names none"):
            path = find_weights(folder)
    assert network_fields(path)["classes"] == CELEBAMASK
    convert_file(weights=str(folder), output=tmp_path / "ours.safetensors")
    assert "celebamask, as usual for" in capsys.readouterr().out


@pytest.mark.parametrize("count", [2, 150])
def test_another_number_of_classes_names_the_command(tmp_path: Path, count: int) -> None:
    folder = repository(tmp_path / "a clone", " ".join(f"LABEL_{index}" for index in range(count)))
    arrays = foreign.mmseg()
    for name in [name for name in arrays if "conv_seg" in name]:
        arrays[name] = np.resize(arrays[name], (count, *arrays[name].shape[1:]))
    write(folder / "model.safetensors", arrays)
    command = f"convert_weights --checkpoint '{folder}' --classes FILE.json"
    with refuses(f"{count} classes", "19 of celebamask", command, "--fresh-classifier"):
        Parser.load(folder)


def test_the_names_of_the_experiments_own_table_are_its_classes(tmp_path: Path) -> None:
    own = Classes("own", tuple(CITYSCAPES.split()), CELEBAMASK.colours)
    config = replace(load_experiment("swin_nano"), classes=own)
    names = CITYSCAPES.split()
    assert convert("f", foreign.mmseg(), config, names=names).config.classes == own


def test_a_clone_is_read_as_its_repository(tmp_path: Path) -> None:
    stated = {"size": {"height": 96, "width": 96}, "resample": 3}
    folder = repository(tmp_path / "clone", **stated)
    config, *_ = load_network(folder)
    assert (config.image_size, config.resize_filter) == (96, "bicubic")
    path = find_weights(folder)
    require_equal(read_weights(path)[0], convert("f", foreign.mmseg()).arrays)
    assert find_weights(folder) == path  # converted once
    repository(folder, **stated, image_mean=[0.5] * 3)
    assert load_network(folder)[0].image_mean == (127.5,) * 3  # and again where it has changed
    assert run_of(folder) is None


def test_what_push_wrote_is_read_wherever_weights_are_named(tmp_path: Path, nano: Nano) -> None:
    folder = tmp_path / "look"
    push(nano.weights, "me/repo", card=folder)
    ours = folder / "model.safetensors"
    assert find_weights(folder) == ours
    assert find_init_weights(replace(nano.config, init_weights=str(folder)), "e") == ours
    assert named(str(folder)) == CELEBAMASK
    assert load_network(folder)[0].backbone == nano.config.backbone
    push(str(folder), "me/repo", card=tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == ours.read_bytes()
    with refuses(folder, "predict --weights"):
        convert_file(weights=str(folder))


def test_a_run_is_its_best_weights(tmp_path: Path, nano: Nano) -> None:
    run = tmp_path / "run"
    save_config(nano.config, run)
    with refuses(run, "best.safetensors", "train"):
        find_weights(run)
    for name in ("best", "best_ema", "model"):
        shutil.copy(nano.weights, run / f"{name}.safetensors")
    assert find_weights(run) == run / "best.safetensors"
    assert run_of(run) == run


def test_a_folder_of_several_files_lists_them(tmp_path: Path, nano: Nano) -> None:
    for name in ("a", "b"):
        shutil.copy(nano.weights, tmp_path / f"{name}.safetensors")
    with refuses(tmp_path / "a.safetensors", tmp_path / "b.safetensors"):
        find_weights(tmp_path)


def test_the_shipped_network_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_weights(SHIPPED.stem) == find_weights(None) == SHIPPED
    assert named(SHIPPED.stem) == CELEBAMASK
    with refuses(SHIPPED.stem, "already"):
        convert_file(weights=SHIPPED.stem)
    Path(SHIPPED.stem).mkdir()  # what lies here comes first
    with refuses(SHIPPED.stem, "best.safetensors"):
        find_weights(SHIPPED.stem)
    assert find_weights(None) == SHIPPED
    with refuses("nosuch", SHIPPED.stem, "user/repo"):
        Parser.load("nosuch")
    shutil.copy(SHIPPED, "here.safetensors")
    with refuses("empty", SHIPPED.stem):  # not the file here
        Parser.load("")


def test_a_parser_by_names_alone() -> None:
    assert Parser.load(None, classes="lapa").classes == load_classes("lapa")
    assert Parser.from_pretrained(SHIPPED.stem, classes="lapa").classes == load_classes("lapa")
    with refuses("nosuch", "lapa"):
        Parser.load(classes="nosuch")
