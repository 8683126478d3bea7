"""Checkpoints of other packages, with the rule's weights, and a stand-in for the hub's cache."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxparse.weights.naming import from_unfold_order, to_unfold_order
from tests import reference
from tests.torch_files import write_zip

StateDict = dict[str, np.ndarray]
NEEDS_TORCH = "torch is not installed, whose files are compared"
SAVED = {  # as preprocessor_config.json by transformers' SegformerImageProcessor
    "do_normalize": True,
    "do_reduce_labels": False,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "SegformerImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 512, "width": 512},
}
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


OPENMMLAB_NAMES = (  # of Microsoft's Swin: theirs, Microsoft's
    ("patch_embed.projection.", "patch_embed.proj."),
    ("stages.", "layers."),
    (".attn.w_msa.", ".attn."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
)


def openmmlab_swin() -> StateDict:
    """timm's by OpenMMLab's names, patch merging in torch's unfold order."""

    def rename(key: str) -> str:
        for theirs, microsofts in OPENMMLAB_NAMES:
            key = key.replace(microsofts, theirs)
        return key

    def reorder(key: str, array: np.ndarray) -> np.ndarray:
        return to_unfold_order(array.T).T if ".downsample." in key else array  # [4C] or [out, 4C]

    arrays = ((k, a) for k, a in microsoft().items() if not k.startswith("head."))
    return {rename(key): reorder(key, array) for key, array in arrays}


def microsoft_upernet() -> StateDict:
    """The whole swin_nano of `mmseg` as Microsoft's segmentation code saves it."""

    def rename(key: str) -> str:
        for theirs, microsofts in OPENMMLAB_NAMES:
            key = key.replace(theirs, microsofts)
        return key

    def reorder(key: str, array: np.ndarray) -> np.ndarray:
        return from_unfold_order(array.T).T if ".downsample." in key else array

    return {rename(key): reorder(key, array) for key, array in mmseg().items()}


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


def hf_segformer() -> StateDict:
    """Hugging Face's SegFormer-B0."""
    return reference.state_dict("hf_segformer_b0")


def hf_mit() -> StateDict:
    """Hugging Face's ImageNet MiT-B0, of ten classes."""
    classifier = {"classifier.weight": [10, 256], "classifier.bias": [10]}
    encoder = {k: x for k, x in hf_segformer().items() if k.startswith("segformer.")}
    return encoder | {key: reference.fill(key, shape) for key, shape in classifier.items()}


def nvidia_mit() -> StateDict:
    """The same by the authors' names, with keys and values in one."""
    patterns = (
        (r"^segformer\.encoder\.", ""),
        (r"^patch_embeddings\.(\d)\.", lambda m: f"patch_embed{int(m[1]) + 1}."),
        (r"^block\.(\d)\.", lambda m: f"block{int(m[1]) + 1}."),
        (r"^layer_norm\.(\d)\.", lambda m: f"norm{int(m[1]) + 1}."),
        (r"layer_norm_?", "norm"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"attention\.self", "attn"),
        (r"attn\.query", "attn.q"),
        (r"mlp\.dense", "mlp.fc"),
        (r"^classifier", "head"),
    )

    def rename(key: str) -> str:
        for pattern, replacement in patterns:
            key = re.sub(pattern, replacement, key)
        return key

    arrays = {rename(key): array for key, array in hf_mit().items()}
    for key in [key for key in arrays if ".attn.key." in key]:
        parts = [arrays.pop(key), arrays.pop(key.replace(".key.", ".value."))]
        arrays[key.replace(".key.", ".kv.")] = np.concatenate(parts)
    return arrays


def mmseg_mit() -> StateDict:
    """The same by mmsegmentation's names: queries, keys and values in one, 1×1 convolutions."""
    arrays = {k: x for k, x in nvidia_mit().items() if not k.startswith("head.")}
    for key in [key for key in arrays if ".attn.q." in key]:
        parts = [arrays.pop(key), arrays.pop(key.replace(".q.", ".kv."))]
        arrays[key.replace(".q.", ".attn.in_proj_")] = np.concatenate(parts)

    def rename(key: str) -> str:
        place = {"patch_embed": 0, "block": 1, "norm": 2}
        key = re.sub(
            r"^(\w+?)(\d)\.", lambda m: f"layers.{int(m[2]) - 1}.{place[m[1]]}.", key
        ).replace(".attn.proj.", ".attn.attn.out_proj.")
        key = re.sub(r"^(layers\.\d\.0)\.proj\.", r"\1.projection.", key)
        for module, index in (("fc1", 0), ("dwconv.dwconv", 1), ("fc2", 4)):
            key = key.replace(f".mlp.{module}.", f".ffn.layers.{index}.")
        return key

    arrays = {rename(key): array for key, array in arrays.items()}
    is_pointwise = re.compile(r"ffn\.layers\.[04]\.weight$").search
    return {k: x[:, :, None, None] if is_pointwise(k) else x for k, x in arrays.items()}


def mmseg_segformer() -> StateDict:
    """mmsegmentation's SegFormer-B0 with a head of 16 channels."""
    shapes = {"decode_head.conv_seg.weight": [19, 16, 1, 1], "decode_head.conv_seg.bias": [19]}
    inputs = {f"convs.{stage}": width for stage, width in enumerate((32, 64, 160, 256))}
    for conv, width in (inputs | {"fusion_conv": 64}).items():
        shapes[f"decode_head.{conv}.conv.weight"] = [16, width, 1, 1]
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"decode_head.{conv}.bn.{name}"] = [16]
    backbone = {f"backbone.{key}": array for key, array in mmseg_mit().items()}
    heads = {key: reference.fill(key, shape) for key, shape in shapes.items()}
    means = [key for key in heads if key.endswith("running_mean")]
    counts = {
        k.replace("running_mean", "num_batches_tracked"): np.zeros((), np.float32) for k in means
    }
    return backbone | heads | counts


def write(path: Path, state_dict: StateDict, wrapper: str | None = None) -> Path:
    """A .safetensors, or a .pth with the state dict under the key `wrapper`."""
    if path.suffix == ".safetensors":
        save_file(state_dict, path)
        return path
    return write_zip(path, {"meta": {"seed": 0}, wrapper: state_dict} if wrapper else state_dict)


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
