"""The hub is a folder: huggingface_hub's cache without a network (tests/foreign.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxparse import Parser
from jaxparse.config import load_experiment
from jaxparse.weights import conversion, hub
from jaxparse.weights.conversion import convert
from jaxparse.weights.files import read_weights
from jaxparse.weights.find import load_network
from jaxparse.weights.hub import HubName, download, fetch, is_hub_name
from tests import foreign
from tests.conftest import Nano
from tests.foreign import offline_hub, require_equal
from tests.refusal import refuses

NAME = "someone/a-network"


def test_names_of_the_hub_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    names = ("user/repo", "user/repo@v1.0", "jonathandinu/face-parsing", "Some-One/re.po_1")
    names += ("user/repo/file.pt", "user/repo@v1/folder/file.safetensors")
    assert all(map(is_hub_name, names))
    paths = ("runs/swin_t", "a.pth", "user/repo.safetensors", "/user/repo", "./user/repo")
    paths += ("runs/swin_t/best.pth", "swin_t", "user/", "../repo", "user/repo.pth")
    assert not any(map(is_hub_name, paths))
    assert HubName.of("user/repo@v1/folder/file.pt") == ("user/repo", "v1", "folder/file.pt")
    assert HubName.of("user/repo") == ("user/repo", None, None)
    for name in ("swin_t", "user/", "", "/user/repo"):
        with refuses("user/repo@revision"):
            Parser.from_pretrained(name)


def test_a_network_of_another_package_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = {"image_mean": [0.5, 0.5, 0.5], "size": {"height": 96, "width": 96}, "resample": 3}
    offline_hub(tmp_path, monkeypatch, {NAME: foreign.mmseg()}, stated)
    path = fetch(NAME)
    arrays, metadata = read_weights(path)
    expected = convert("f", foreign.mmseg(), load_experiment("swin_nano"))
    require_equal(arrays, expected.arrays)
    assert NAME in metadata["source"]
    config, *_ = load_network(NAME)
    assert (config.backbone, config.head, config.head_channels) == ("swin_nano", "upernet", 64)
    assert (config.image_mean, config.resize_filter) == ((127.5,) * 3, "bicubic")
    assert config.image_size == 96
    monkeypatch.setattr(conversion, "convert", None)  # it is not called again
    assert fetch(f"{NAME}@main") == path


def test_our_own_file_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano: Nano
) -> None:
    folder = offline_hub(tmp_path, monkeypatch, {NAME: Path(nano.weights)})
    assert fetch(NAME).parent == folder[NAME]
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    found = Parser.from_pretrained(NAME)(picture).mask
    np.testing.assert_array_equal(found, Parser.load(nano.weights)(picture).mask)


def test_a_file_that_is_divided_or_one_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a.safetensors", "b.safetensors")
    folder = offline_hub(tmp_path, monkeypatch, {NAME: foreign.mmseg()})[NAME]
    (folder / "model.safetensors").rename(folder / names[0])
    assert hub.checkpoint_in(folder, NAME).name == names[0]
    (folder / names[1]).write_bytes(b"")
    with refuses(NAME, *names, f"{NAME}/FILE"):
        fetch(NAME)
    one = fetch(f"{NAME}/{names[0]}")
    require_equal(read_weights(one)[0], convert("f", foreign.mmseg()).arrays)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": names[0]}}))
    assert hub.checkpoint_in(folder, NAME) == index


def test_a_failed_download_says_what_to_download_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline_hub(tmp_path, monkeypatch, {})
    url = "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors"
    command = "convert_weights --exp e --weights model.safetensors"
    with refuses("timm/resnet50.a1_in1k", "LocalEntryNotFoundError", url, command) as error:
        download("timm/resnet50.a1_in1k", ("--exp", "e"))
    assert "\n" not in str(error.value)


def test_a_broken_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str, **__: object) -> str:
        raise RuntimeError("404 Client Error. (Request ID: 1)\n\nRepository Not Found")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with refuses(NAME, "404") as error:
        download(NAME)
    assert "\n" not in str(error.value)


def test_a_repository_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = offline_hub(tmp_path, monkeypatch, {NAME: foreign.mmseg()})[NAME]
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with refuses(NAME, "no file of weights", "*.safetensors"):
        fetch(NAME)


@pytest.mark.parametrize("stated", [[], {"image_mean": "0.5"}, {"image_std": [0.5, None, 0.5]}])
def test_a_damaged_preprocessing_is_named(tmp_path: Path, stated: object) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(stated))
    with refuses(path, *stated):
        hub.preprocessing_in(tmp_path)
