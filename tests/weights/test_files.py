import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxparse.classes import CELEBAMASK, classes_json, parse_classes
from jaxparse.config import load_experiment, save_config
from jaxparse.models import split_model
from jaxparse.weights.conversion import start_weights
from jaxparse.weights.files import (
    BEST_WEIGHTS,
    NETWORK_FIELDS,
    PREPROCESSING_FIELDS,
    flatten,
    load_weights,
    network_fields,
    read_weights,
    save_weights,
    unflatten,
)
from jaxparse.weights.find import config_of_weights, load_network
from tests.refusal import refuses

CONFIG = load_experiment("swin_nano")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """A number of its own for every array of swin_nano."""
    _, params, batch_stats = split_model(CONFIG)
    wanted = flatten(params) | flatten(batch_stats)
    return {k: np.full(v.shape, i, np.float32) for i, (k, v) in enumerate(wanted.items())}


def load(path: Path, to_start_from: bool = False) -> dict[str, np.ndarray]:
    _, params, batch_stats = split_model(CONFIG)
    params = unflatten({k: jnp.full(v.shape, -1.0) for k, v in flatten(params).items()})
    read = start_weights if to_start_from else load_weights
    loaded = read(path, CONFIG, params, batch_stats)
    return flatten(loaded[0]) | flatten(loaded[1])


def test_flatten_and_back() -> None:
    tree = {"layers": {0: {"kernel": 1}, 1: {"kernel": 2}}, "norm0": {"scale": 3}}
    flat = {"layers.0.kernel": 1, "layers.1.kernel": 2, "norm0.scale": 3}
    assert flatten(tree) == flat
    assert unflatten(flat) == tree


def test_weights_survive_the_disk(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays, CONFIG, "a test")
    loaded = load(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
    metadata = read_weights(path)[1]
    assert metadata["source"] == "a test"
    assert '"backbone": "swin_nano"' in metadata["network"]
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]  # no temporary left


def test_fresh_parts_keep_their_initialisation(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "backbone.safetensors"
    backbone = {k: v for k, v in arrays.items() if k.startswith("backbone.")}
    save_weights(path, backbone, CONFIG, "a test", fresh=("decode_head.", "auxiliary_head."))
    loaded = load(path, to_start_from=True)
    np.testing.assert_array_equal(loaded["backbone.norm0.scale"], arrays["backbone.norm0.scale"])
    assert float(loaded["decode_head.conv_seg.bias"][0]) == -1
    with refuses(path, "decode_head.", "auxiliary_head.", "--init-weights"):
        load(path)


def test_names_and_shapes_must_match(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "w.safetensors"
    wrong = dict(arrays, extra=np.zeros(3, np.float32))
    del wrong["backbone.norm1.bias"]
    wrong["backbone.norm0.bias"] = np.zeros(7, np.float32)
    save_weights(path, wrong, CONFIG, "a test")
    shapes = "backbone.norm0.bias is (7,), not (32,)"
    with refuses(path, "missing backbone.norm1.bias", "unknown extra", shapes):
        load(path)


def test_weights_of_another_network(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays, replace(CONFIG, backbone="swin_t"), "a test")
    with refuses(path, "backbone swin_t, not swin_nano", "--exp"):
        load(path)
    save_weights(path, arrays, replace(CONFIG, head="psanet", head_channels=7), "a test")
    with refuses(path, "head psanet, not upernet", "head_channels 7, not 64", "--exp"):
        load(path)


def test_a_backbone_only_file_records_and_compares_only_the_backbone(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "backbone.safetensors"
    backbone = {k: v for k, v in arrays.items() if k.startswith("backbone.")}
    heads = ("decode_head.", "auxiliary_head.")
    save_weights(path, backbone, replace(CONFIG, head="psanet", head_channels=7), "a test", heads)
    assert read_weights(path)[1]["network"] == '{"backbone": "swin_nano"}'
    load(path, to_start_from=True)
    save_weights(path, backbone, replace(CONFIG, backbone="swin_b"), "a test", heads)
    with refuses(path, "backbone swin_b, not swin_nano", "--exp"):
        load(path, to_start_from=True)


def test_files_that_record_fewer_fields_are_compared_by_those(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays, CONFIG, "a test")
    metadata = read_weights(path)[1]
    fields = json.loads(metadata["network"])
    assert fields.pop("classes") == classes_json(CELEBAMASK)
    assert fields == {
        "backbone": "swin_nano",
        "head": "upernet",
        "head_channels": 64,
        "auxiliary_channels": 32,
        "image_size": 128,
        "resize_filter": "bilinear",
        "image_mean": [123.675, 116.28, 103.53],
        "image_std": [58.395, 57.12, 57.375],
        "align_corners": False,
    }
    for name in ("head", *PREPROCESSING_FIELDS):  # as before there was more than one
        del fields[name]
    del metadata["crc32"]
    save_file(arrays, path, metadata | {"network": json.dumps(fields)})
    assert load(path).keys() == arrays.keys()


def test_a_file_carries_its_table_of_classes(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Whole, under one checksum with the network; files of before are celebamask's."""
    path, mine = tmp_path / "w.safetensors", "abcdefghijklmnopqrs"
    table = {"names": list(mine), "pairs": [["c", "d"]], "from": {"celebamask": {"*": "b"}}}
    config = replace(CONFIG, classes=parse_classes(table, "mine", "mine.json"))
    save_weights(path, arrays, config, "a test")
    fields = network_fields(path)
    assert fields["classes"] == config.classes and fields["classes"].name == "mine"
    with refuses(path, "mine", "celebamask"):
        load(path)
    metadata = read_weights(path)[1]
    save_file(arrays, path, metadata | {"network": metadata["network"].replace('"c"', '"C"')})
    with refuses(path, "network", "checksum"):
        network_fields(path)
    older = json.loads(metadata["network"])
    del older["classes"], metadata["crc32"]
    save_file(arrays, path, metadata | {"network": json.dumps(older), "classes": "background"})
    assert network_fields(path)["classes"] == CELEBAMASK


def test_a_file_says_which_network_it_needs(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays, CONFIG, "a test")
    config = load_network(path)[0]
    fields = (*NETWORK_FIELDS, "image_size")
    assert [getattr(config, f) for f in fields] == [getattr(CONFIG, f) for f in fields]
    backbone = {k: v for k, v in arrays.items() if k.startswith("backbone.")}
    save_weights(path, backbone, CONFIG, "a test", ("decode_head.", "auxiliary_head."))
    with refuses(path, "only a backbone", "--init-weights"):
        load_network(path)


def test_files_of_other_kinds(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with refuses("no file", "gone.safetensors", "jaxparse.convert_weights"):
        read_weights(tmp_path / "gone.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, foreign)
    with refuses(foreign, "jaxparse.convert_weights"):
        read_weights(foreign)
    torch_file = tmp_path / "mmseg.pth"
    torch_file.write_bytes(b"PK\x03\x04 what torch writes")
    with refuses(f"jaxparse.convert_weights --checkpoint {torch_file}"):
        read_weights(torch_file)
    cut = tmp_path / "cut.safetensors"
    save_weights(cut, arrays, CONFIG, "a test")
    cut.write_bytes(cut.read_bytes()[:-1000])
    with refuses("cut.safetensors", "truncated"):
        read_weights(cut)


def test_a_run_stands_for_its_best_weights(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    save_config(CONFIG, tmp_path)
    with refuses(tmp_path, "best.safetensors", "train"):
        load_network(tmp_path)
    save_weights(tmp_path / BEST_WEIGHTS, arrays, CONFIG, "a test")
    config, params, batch_stats = load_network(str(tmp_path))
    assert config == CONFIG
    assert (flatten(params) | flatten(batch_stats)).keys() == arrays.keys()


def test_damaged_weights_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays, CONFIG, "a test")
    whole = path.read_bytes()
    for kept in (len(whole) * 6 // 10, len(whole) - 4):
        path.write_bytes(whole[:kept] + bytes(len(whole) - kept))
        with refuses(path, "checksum"):
            read_weights(path)
    path.write_bytes(whole)
    read_weights(path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x: x.astype(np.int32), "int32"),
        (lambda x: np.full_like(x, np.nan), "not finite"),
        (lambda x: np.full_like(x, np.inf), "not finite"),
    ],
)
def test_values_that_no_network_can_have(
    tmp_path: Path, arrays: dict[str, np.ndarray], change: Callable, words: str
) -> None:
    path, name = tmp_path / "w.safetensors", "decode_head.conv_seg.bias"
    save_weights(path, arrays | {name: change(arrays[name])}, CONFIG, "a test")
    with refuses(path, name, words):
        read_weights(path)


def test_half_precision_and_files_without_sums_are_read(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "w.safetensors"
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_weights(path, half, CONFIG, "a test")
    metadata = read_weights(path)[1]
    del metadata["crc32"]
    save_file(half, path, metadata)
    for name, array in read_weights(path)[0].items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, half[name])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"network": "{"}, "network"),
        ({"network": "[]"}, "network"),
        ({"network": '{"backbone": "swin_t", "future": 1}'}, "newer"),
        ({"network": '{"backbone": "swin_t", "head_channels": "many"}'}, "head_channels"),
        ({"network": "{}"}, "backbone"),
        ({"network": f'{{"backbone": {"9" * 5000}}}'}, "network"),
        (
            {"network": '{"backbone": "swin_nano", "image_size": 96}'},
            "network has another checksum",
        ),
        ({"source": None}, "source"),
        ({"crc32": "3"}, "crc32"),
    ],
)
def test_metadata_is_not_trusted(
    tmp_path: Path, arrays: dict[str, np.ndarray], changes: dict[str, str | None], words: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays, CONFIG, "a test")
    metadata = {k: v for k, v in (read_weights(path)[1] | changes).items() if v is not None}
    save_file(arrays, path, metadata)
    with refuses(path, words):
        load_network(path)


def test_preprocessing_comes_with_the_weights(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    """A file is read with its own; a run or an experiment with another one is refused."""
    path = tmp_path / "w.safetensors"
    own = {"resize_filter": "opencv", "image_mean": (127.5,) * 3, "align_corners": True}
    save_weights(path, arrays, replace(CONFIG, **own), "a test")
    config = config_of_weights(path)
    assert {name: getattr(config, name) for name in own} == own
    with refuses(path, "resize_filter opencv, not bilinear", "align_corners True", "--exp"):
        load(path)
