"""Reading and writing weight files as they lie around; the hub is a folder."""

import json
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxparse.weights.foreign import read_checkpoint, without_prefixes, write_torch
from tests.foreign import NEEDS_TORCH, StateDict, require_equal, write
from tests.refusal import refuses
from tests.torch_files import Call, write_old, write_zip

PLAIN = {"conv.weight": np.arange(6, dtype="f4").reshape(2, 3), "bn.bias": np.float32([1, 2])}
AVERAGE = {name: array + 10 for name, array in PLAIN.items()}
EPOCH = {"epoch": 3, "lr": 0.1}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_precision_of_safetensors_becomes_float32(dtype: str, tmp_path: Path) -> None:
    arrays = {name: np.asarray(array / 3).astype(jnp.dtype(dtype)) for name, array in PLAIN.items()}
    save_file(arrays, tmp_path / "f.safetensors")
    expected = {name: array.astype(np.float32) for name, array in arrays.items()}
    require_equal(read_checkpoint(tmp_path / "f.safetensors").arrays, expected)


@pytest.mark.parametrize(
    "content, taken",
    [
        (PLAIN, ""),
        ({"state_dict": PLAIN}, "state_dict"),
        ({"model": PLAIN, "best": np.float32([1])}, "model"),
        ({"model": {"state_dict": PLAIN}}, "model.state_dict"),
        ({"model": {"model": PLAIN, "lr": 1.0}}, "model.model"),
        ({"model_state_dict": PLAIN}, "model_state_dict"),
        ({"state_dict_backbone": PLAIN, "optimizer": {"state": {}}}, "state_dict_backbone"),
        ({"net": PLAIN}, "net"),
        ({"network": PLAIN}, "network"),
        ({"params": PLAIN}, "params"),
        ({"params": {"lr": 0.1}, "model": PLAIN}, "model"),
        ({"networks": {"main": PLAIN}}, "networks.main"),
    ],
)
def test_wrapped_weights(content: dict, taken: str, tmp_path: Path) -> None:
    read = read_checkpoint(write_zip(tmp_path / "f.pth", content | (EPOCH if taken else {})))
    require_equal(read.arrays, PLAIN)
    assert read[1:4] == (taken, False, "")


@pytest.mark.parametrize(
    "content, plain, average",
    [
        ({"state_dict": PLAIN, "state_dict_ema": AVERAGE}, "state_dict", "state_dict_ema"),
        ({"params_ema": AVERAGE, "params": PLAIN}, "params", "params_ema"),
        ({"model": PLAIN, "ema": AVERAGE}, "model", "ema"),
        ({"model": PLAIN, "ema": {"state_dict": AVERAGE}}, "model", "ema.state_dict"),
        ({"networks": {"main": PLAIN, "main_ema": AVERAGE}}, "networks.main", "networks.main_ema"),
        (
            {
                "model": PLAIN,
                "model_ema": {"n_averaged": np.int64([7])}
                | {f"module.{name}": array for name, array in AVERAGE.items()},
            },
            "model",
            "model_ema",
        ),
    ],
)
def test_moving_averages(content: dict, plain: str, average: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.pth", content | EPOCH)
    for ema, arrays, choice in (
        (False, PLAIN, (plain, False, average)),
        (True, AVERAGE, (average, True, plain)),
    ):
        read = read_checkpoint(path, ema=ema)
        require_equal(read.arrays, arrays)
        assert read[1:4] == choice


@pytest.mark.parametrize("ema", [False, True])
def test_a_file_with_only_the_average(ema: bool, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.pth", {"params_ema": AVERAGE})
    read = read_checkpoint(path, ema=ema)
    require_equal(read.arrays, AVERAGE)
    assert read[1:4] == ("params_ema", True, "")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_no_average(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"f{suffix}", PLAIN)
    with refuses(path, "--ema"):
        read_checkpoint(path, ema=True)


def test_several_state_dicts(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.pth", {"model": PLAIN, "net": AVERAGE})
    with refuses(path, "model, net"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "module.module.",
        "model.",
        "net.",
        "network.",
        "_orig_mod.",
        "segmentor.",
        "model.module.",
        "module._orig_mod.model.",
        "_orig_mod.module.segmentor.net.",
    ],
)
def test_prefixes_of_all_names_are_dropped(prefix: str, tmp_path: Path) -> None:
    wrapped = {f"{prefix}{name}": array for name, array in PLAIN.items()}
    for suffix in (".pth", ".safetensors"):
        require_equal(read_checkpoint(write(tmp_path / f"f{suffix}", wrapped)).arrays, PLAIN)


def test_a_prefix_of_some_names_is_part_of_them() -> None:
    names = ["module.net.a", "module.net.model.b", "module.net.c.net.d"]
    arrays = {name: np.ones(1) for name in names}
    assert list(without_prefixes(arrays)) == ["a", "model.b", "c.net.d"]
    mixed = {"net.a": np.ones(1), "head.b": np.ones(1)}
    assert list(without_prefixes(mixed)) == list(mixed)
    assert without_prefixes({}) == {}


def shards(folder: Path, suffix: str) -> dict[str, StateDict]:
    """Two files of arrays, and their index."""
    base = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
    files = {f"part-{i}{suffix}": {name: PLAIN[name]} for i, name in enumerate(PLAIN)}
    for file, arrays in files.items():
        write(folder / file, arrays)
    places = {name: file for file, arrays in files.items() for name in arrays}
    content = {"metadata": {"total_size": 32}, "weight_map": places}
    (folder / f"{base}.index.json").write_text(json.dumps(content))
    return files


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_several_files(suffix: str, tmp_path: Path) -> None:
    files = shards(tmp_path, suffix)
    [index] = tmp_path.glob("*.index.json")
    require_equal(read_checkpoint(index).arrays, PLAIN)
    first, last = files
    write(tmp_path / last, {"other": np.ones(1, np.float32)})
    with refuses(tmp_path / last, "bn.bias", index.name):
        read_checkpoint(index)
    for file in files:
        (tmp_path / file).unlink()
    with refuses(index, first, last):
        read_checkpoint(index)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../x.bin"}}',
                '{"weight_map": {"a": "%s"}}' % ("x" * 999),
                '{"weight_map": {"a": 3}}', '{"weight_map": {"a": ""}}', '{"weight_map": 3}'],
)  # fmt: skip
def test_damaged_index(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with refuses(path):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content, names",
    [
        ({"meta": {"dataset_meta": {"classes": ("road", "sky"), "palette": []}}}, ("road", "sky")),
        ({"meta": {"CLASSES": ["road", "sky"], "epoch": 3}}, ("road", "sky")),
        ({"hyper_parameters": {"id2label": {1: "sky", 0: "road"}}}, ("road", "sky")),
        ({"class_names": ["road", "sky"]}, ("road", "sky")),
        ({"meta": {"classes": 19}}, ()),
        ({"meta": {"classes": ["0", "1"]}}, ()),
        ({}, ()),
    ],
)
def test_the_names_of_the_classes(content: dict, names: tuple[str, ...], tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.pth", {"state_dict": PLAIN} | content)
    assert read_checkpoint(path).classes == names


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"epoch": 3}}, {"model": 5}, {}])
@pytest.mark.parametrize("save", [write_zip, write_old])
def test_pth_without_weights(content: object, save: Callable[..., Path], tmp_path: Path) -> None:
    path = save(tmp_path / "f.pth", content)
    with refuses(path, "state dict"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "value, word",
    [([1], "list"), (Call("a.b", (1,)), "a.b"), (None, "NoneType"), ({"a": 1}, "dict")],
)
def test_a_state_dict_holds_only_tensors(value: object, word: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.pth", {"state_dict": PLAIN | {"x.y": value}})
    with refuses(path, "x.y", word):
        read_checkpoint(path)
    write_zip(path, {"state_dict": PLAIN | {3: np.ones(1, np.float32)}})
    with refuses(path, "3 as"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "delete it"),
        (b"<!DOCTYPE html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "gzip"),
        (b"\x08\x07\x12\x07pytorch" + bytes(60), "ONNX"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), ".h5"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "tar"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_often_taken_for_weights(
    tmp_path: Path, content: bytes, words: str, suffix: str
) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    with refuses(path, words):
        read_checkpoint(path)


def test_archives_that_are_often_taken_for_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", **PLAIN)
    inner = write(tmp_path / "inner.pth", PLAIN)
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        tar.add(inner, "inner.pth")
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.write(inner, "folder/inner.pth")
    for name, word in (("f.npz", ".npz"), ("f.tar", "unpack"), ("f.zip", "unpack")):
        with refuses(tmp_path / name, word):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "name, content, word",
    [
        ("f.pth", b"weights\n", "not a torch checkpoint"),
        ("f.pkl", pickle.dumps({"a": [1.0]}), "torch.save"),
        ("f.safetensors", b"weights\n", "not a safetensors file"),
    ],
)
def test_file_of_another_kind(name: str, content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with refuses(path, word):
        read_checkpoint(path)


def test_safetensors_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "f.safetensors", {"patch_embed.proj.bias": np.ones(99, np.float32)})
    for size in (100, path.stat().st_size - 100):
        path.write_bytes(path.read_bytes()[:size])
        with refuses(path, "truncated"):
            read_checkpoint(path)


def test_the_suffix_is_not_believed(tmp_path: Path) -> None:
    for suffix, other in ((".safetensors", ".pth"), (".pth", ".safetensors")):
        path = write(tmp_path / f"f{suffix}", PLAIN)
        assert read_checkpoint(path.rename(tmp_path / f"g{other}")).arrays.keys() == PLAIN.keys()


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    path = write(tmp_path / "f.pth", PLAIN | {"a.weight": np.float32([1, np.inf])})
    with refuses(path, "a.weight", "not finite"):
        read_checkpoint(path)


def test_pth_is_written_as_mmengine_writes_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / "new" / "f.pth"
    arrays = {"weight": np.arange(6, dtype="f4").reshape(2, 3).T, "steps": np.zeros((), np.int64)}
    arrays["weight"].flags.writeable = False
    write_torch(path, arrays, {"CLASSES": ["skin"]})
    content = torch.load(path, weights_only=True)
    assert content["meta"] == {"CLASSES": ["skin"]}
    assert content["state_dict"]["weight"].is_contiguous()
    require_equal({k: v.numpy() for k, v in content["state_dict"].items()}, arrays)
    assert [p.name for p in path.parent.iterdir()] == ["f.pth"]  # no temporary left


def test_pth_is_not_written_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with refuses("f.pth", 'pip install "jaxparse[torch]"'):
        write_torch(tmp_path / "f.pth", {}, {})
