"""Checkpoints of other packages, with the rule's weights, and a stand-in for the hub's cache."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import reference

StateDict = dict[str, np.ndarray]
NEEDS_TORCH = "torch is not installed; it reads .pth files"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def mmseg() -> StateDict:
    """A whole swin_nano."""
    return reference.state_dict("mmseg_swin_nano")


def mmseg_plain_resnet() -> StateDict:
    """DeepLabV3+ on the ResNet-50 with the 7×7 stem."""
    backbone = reference.state_dict("timm_resnet50").items()
    whole = reference.state_dict("mmseg_deeplabv3plus_r50").items()
    heads = {key: array for key, array in whole if not key.startswith("backbone.")}
    return heads | {f"backbone.{key}": array for key, array in backbone if "fc." not in key}


def timm() -> StateDict:
    """timm's Swin-T shrunk to swin_nano: a third of the channels and heads, two blocks a stage."""

    def shrink(key: str, shape: list[int]) -> list[int]:
        if key.endswith("relative_position_bias_table"):
            return [169, shape[1] // 3]
        return [size // 3 if size % 96 == 0 else size for size in shape]

    shapes = reference.SHAPES["timm_swin_t"].items()
    kept = {k: v for k, v in shapes if not re.match(r"layers\.2\.blocks\.[2-5]", k)}
    return {key: reference.fill(key, shrink(key, shape)) for key, shape in kept.items()}


def microsoft() -> StateDict:
    """The same by Microsoft's names, with the buffers that Microsoft's files have."""

    def rename(key: str) -> str:
        key = re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", key)
        return key.replace("head.fc.", "head.")

    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((49, 49), np.int64),
        "layers.0.blocks.1.attn_mask": np.zeros((64, 49, 49), np.float32),
    }
    return {rename(key): array for key, array in timm().items()} | buffers


def timm_resnet50() -> StateDict:
    return reference.state_dict("timm_resnet50")


def timm_resnet50c() -> StateDict:
    return reference.state_dict("timm_resnet50_v1c")


def openmmlab() -> StateDict:
    """timm's resnet50c by OpenMMLab's names."""
    stem = {"conv1.": "stem.", "bn1.": "stem.7."}

    def rename(key: str) -> str:
        return re.sub(r"^(conv1\.|bn1\.)", lambda match: stem[match[1]], key)

    return {rename(key): array for key, array in timm_resnet50c().items()}


def write(path: Path, state_dict: StateDict, wrapper: str | None = None) -> Path:
    """A .safetensors, or a .pth with the state dict under the key `wrapper`."""
    if path.suffix == ".safetensors":
        save_file(state_dict, path)
        return path
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state_dict.items()}
    torch.save({"meta": {"seed": 0}, wrapper: tensors} if wrapper else tensors, path)
    return path


def offline_hub(
    folder: Path,
    patch: pytest.MonkeyPatch,
    repositories: Mapping[str, StateDict | Path],
    preprocessor: Mapping[str, object] | None = None,
) -> dict[str, Path]:
    """Makes `folder` the cache of huggingface_hub without a network.

    Each repository, by its name, holds a state dict, or a copy of a file, as model.safetensors, and
    `preprocessor` as preprocessor_config.json. Returns their folders.
    """
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    patch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(folder / "assets"))
    patch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(folder / "assets"))
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folders = {}
    for name, weights in repositories.items():
        repository = folder / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / REVISION
        snapshot.mkdir(parents=True)
        if isinstance(weights, Path):
            shutil.copy(weights, snapshot / "model.safetensors")
        else:
            write(snapshot / "model.safetensors", weights)
        if preprocessor:
            (snapshot / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(REVISION)
        folders[name] = snapshot
    return folders


def require_equal(arrays: StateDict, expected: StateDict) -> None:
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
