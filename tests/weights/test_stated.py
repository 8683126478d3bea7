"""What lies beside weights, in the words of transformers' files."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxparse.config import Config
from jaxparse.weights.stated import names_beside, preprocessing_beside
from tests.foreign import SAVED
from tests.refusal import refuses

RAW = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
VIT = {"image_processor_type": "ViTImageProcessor"}


def stated(folder: Path, content: object, image_size: int | None = None) -> dict[str, object]:
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return preprocessing_beside(folder / "model.safetensors", "user/repo", image_size)


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, {}),
        ({"resample": 3}, {"resize_filter": "bicubic"}),
        ({"size": 384}, {"image_size": 384}),
        ({"image_mean": [0.5] * 3}, {"image_mean": (127.5,) * 3}),
        ({"do_rescale": False, "do_normalize": False}, RAW),
        ({"do_normalize": False}, {"image_mean": (0.0,) * 3, "image_std": (255.0,) * 3}),
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [64] * 3},
            {"image_mean": (127.5,) * 3, "image_std": (64.0,) * 3},
        ),
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3},
            {"image_mean": (127.5,) * 3, "image_std": (127.5,) * 3},
        ),
        ({"do_reduce_labels": True, "do_convert_rgb": True, "do_center_crop": None}, {}),
        (VIT, {}),
    ],
)
def test_what_is_stated_is_done(tmp_path: Path, change: dict, expected: dict) -> None:
    fields = stated(tmp_path, SAVED | change)
    defaults = {name: getattr(Config(), name) for name in fields}
    assert set(fields) == {"image_size", "resize_filter", "image_mean", "image_std"}
    for name, value in (defaults | expected).items():
        if name == "resize_filter":
            assert fields[name] == value
        else:
            np.testing.assert_allclose(fields[name], value, rtol=1e-6)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"size": {"height": 384, "width": 640}}, 'size {"height": 384, "width": 640}'),
        ({"size": {"shortest_edge": 448}}, 'size {"shortest_edge": 448}'),
        ({"do_resize": False}, "do_resize false"),
        ({"do_center_crop": True}, "do_center_crop true"),
        (VIT | {"size": 384}, "size 384"),
    ],
)
def test_sizes_that_are_refused_may_be_replaced(tmp_path: Path, change: dict, word: str) -> None:
    with refuses(tmp_path, word, "--checkpoint user/repo --image-size 512"):
        stated(tmp_path, SAVED | change)
    assert stated(tmp_path, SAVED | change, 448)["image_size"] == 448


@pytest.mark.parametrize(
    "change, word",
    [
        ({"resample": 0}, "resample 0"),
        ({"resample": 1}, "resample 1"),
        ({"resample": True}, "resample true"),
        ({"image_mean": [0.5]}, "image_mean [0.5]"),
        ({"image_mean": 0.5}, "image_mean 0.5"),
        ({"image_std": [0.5, None, 0.5]}, "image_std [0.5, null, 0.5]"),
        ({"image_std": [0.2, 0, 0.2]}, "image_std"),
        ({"image_mean": [2, 2, 2]}, "image_mean"),
        ({"rescale_factor": 0}, "rescale_factor 0"),
        ({"do_rescale": "no"}, 'do_rescale "no"'),
        ({"do_flip_channel_order": True}, "do_flip_channel_order true"),
        ({"do_pad": True, "do_thumbnail": True}, "do_pad true, do_thumbnail true"),
        ({"rescale_offset": True}, "rescale_offset true"),
        (VIT | {"resample": None}, "no resample"),
    ],
)
def test_what_is_not_done_is_refused_by_name(tmp_path: Path, change: dict, word: str) -> None:
    with refuses(tmp_path / "preprocessor_config.json", word):
        stated(tmp_path, SAVED | change)


def test_only_what_is_stated_counts(tmp_path: Path) -> None:
    assert stated(tmp_path, {"resample": 3}) == {"resize_filter": "bicubic"}
    assert stated(tmp_path, {}) == {}
    with refuses(tmp_path, "JSON object"):
        stated(tmp_path, [])
    (tmp_path / "preprocessor_config.json").unlink()
    assert preprocessing_beside(tmp_path / "model.safetensors", "x") == {}


@pytest.mark.parametrize(
    "content, names",
    [
        ({"id2label": {"1": "skin", "0": "background"}}, ("background", "skin")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, ()),
        ({"id2label": None, "classes": {"names": ["a", "b"]}}, ()),
        ({}, ()),
    ],
)
def test_names_of_config_json(tmp_path: Path, content: dict, names: tuple[str, ...]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert names_beside(tmp_path / "model.safetensors") == names


@pytest.mark.parametrize(
    "id2label",
    [3, ["a", "b"], {"0": "a", "2": "b"}, {"0": "a", "x": "b"}, {"0": 1, "1": "a"}, {"0": ""}],
)
def test_damaged_names_are_refused(tmp_path: Path, id2label: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": id2label}))
    with refuses(tmp_path / "config.json", "id2label"):
        names_beside(tmp_path / "model.safetensors")
