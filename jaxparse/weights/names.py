"""Kinds of checkpoints: their names for our parameters, and which network a file holds.

A table of strings to replace, in order, turns their names into ours; in reverse order, ours into
theirs. Kernels are transposed to HWIO and [in, out]. Microsoft and mmsegmentation put a stage's
downsampling at the end of the previous stage; mmsegmentation numbers the modules of a Sequential.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparse.classes import LabelOrder
from jaxparse.config import Config
from jaxparse.models import resnet, swin

# timm's ImageNet-1K weights of each backbone: timm's defaults except for Swin-B, whose default is
# ms_in22k_ft_in1k; the recipes start from ImageNet-1K only.
TIMM_WEIGHTS = {
    "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_b": "swin_base_patch4_window7_224.ms_in1k",
    "resnet50": "resnet50.a1_in1k",
    "resnet101": "resnet101.a1h_in1k",
    "resnet50_v1c": "resnet50c.gluon_in1k",
    "resnet101_v1c": "resnet101c.gluon_in1k",
}
# The init_weights of experiments that start from others of timm's weights, without suffix.
TIMM_WEIGHTS_OF_FILES = {"swin_b_imagenet22k": "swin_base_patch4_window7_224.ms_in22k"}
# Computed from the sizes here; batch norm's momentum is constant.
BUFFERS = r"(relative_position_index|attn_mask|num_batches_tracked)$"
DROPPED = rf"{BUFFERS}|^(norm|head|fc)\."  # the latter: ImageNet's classifier
HEADS = ("decode_head.", "auxiliary_head.")
HEAD_MARKERS = {  # a parameter that only this decode head has
    "upernet": "decode_head.psp_modules.0.conv.kernel",
    "deeplabv3plus": "decode_head.sep_bottleneck.0.pointwise_conv.conv.kernel",
    "psanet": "decode_head.attention_p.0.conv.kernel",
}

Renames = tuple[tuple[str, str], ...]  # theirs, ours
# From the last stage on, so that nothing is renamed twice.
NEXT_STAGE: Renames = tuple(
    (f"layers.{stage}.downsample.", f"layers.{stage + 1}.downsample.") for stage in (2, 1, 0)
)
# A Sequential of three times (convolution, norm, ReLU).
DEEP_STEM: Renames = tuple(
    (f"backbone.stem.{i}.", f"backbone.stem.{i // 3}.{('conv', 'bn')[i % 3]}.")
    for i in (0, 1, 3, 4, 6, 7)
)
TIMM_DEEP_STEM: Renames = (
    ("backbone.conv1.", "backbone.stem."),
    ("backbone.bn1.", "backbone.stem.7."),
    *DEEP_STEM,
)
PLAIN_STEM: Renames = (
    ("backbone.conv1.", "backbone.stem.0.conv."),
    ("backbone.bn1.", "backbone.stem.0.bn."),
)
STATISTICS: Renames = ((".running_mean", ".mean"), (".running_var", ".var"))
MMSEG_HEADS: Renames = (
    *((f"psp_modules.{i}.1.", f"psp_modules.{i}.") for i in range(4)),
    ("image_pool.1.", "image_pool."),
    *STATISTICS,
)
MMSEG_BLOCKS: Renames = (
    ("backbone.patch_embed.projection.", "backbone.patch_embed.proj."),
    ("backbone.stages.", "backbone.layers."),
    (".attn.w_msa.", ".attn."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
)


class Naming(NamedTuple):
    """A kind of checkpoint: a segmentor, or an ImageNet backbone, whose names need a prefix."""

    name: str
    markers: tuple[str, ...]  # keys found in every file of this kind and in no other kind
    renames: Renames
    fresh: tuple[str, ...] = ()  # prefixes of parameters that such files lack
    prefix: str = ""  # of our names
    unfolded: bool = False  # patch merging orders its four neighbours as torch's unfold does
    label_order: LabelOrder = "official"
    fields: tuple[tuple[str, Any], ...] = ()  # of Config: the preprocessing, if not the default


BOTTLENECK = "layer1.0.conv3.weight"
MMSEG_SWIN = Naming(
    "mmsegmentation Swin segmentor",
    ("backbone.patch_embed.projection.bias",),
    (*MMSEG_BLOCKS, *NEXT_STAGE, *MMSEG_HEADS),
    unfolded=True,
)
MMSEG_RESNET_V1C = Naming(
    "mmsegmentation ResNetV1c segmentor",
    ("backbone.stem.0.weight", f"backbone.{BOTTLENECK}", "decode_head.conv_seg.weight"),
    (*DEEP_STEM, *MMSEG_HEADS),
)
MMSEG_RESNET = Naming(
    "mmsegmentation ResNet segmentor",
    ("backbone.conv1.weight", f"backbone.{BOTTLENECK}", "decode_head.conv_seg.weight"),
    (*PLAIN_STEM, *MMSEG_HEADS),
)
TIMM_SWIN = Naming(
    "timm ImageNet Swin",
    ("patch_embed.proj.bias", "layers.3.downsample.norm.bias"),
    (),
    fresh=(*(f"backbone.norm{stage}." for stage in range(4)), *HEADS),
    prefix="backbone.",
)
MICROSOFT = TIMM_SWIN._replace(
    name="Microsoft ImageNet Swin",
    markers=("patch_embed.proj.bias", "layers.0.downsample.norm.bias"),
    renames=NEXT_STAGE,
)
TIMM_RESNET = Naming(
    "timm ImageNet ResNet",
    ("conv1.weight", BOTTLENECK),
    (*PLAIN_STEM, *STATISTICS),
    fresh=HEADS,
    prefix="backbone.",
)
TIMM_RESNET_C = TIMM_RESNET._replace(
    name="timm ImageNet ResNet-C",
    markers=("conv1.0.weight", BOTTLENECK),
    renames=(*TIMM_DEEP_STEM, *STATISTICS),
)
OPENMMLAB = TIMM_RESNET._replace(
    name="OpenMMLab ImageNet ResNetV1c",
    markers=("stem.0.weight", BOTTLENECK),
    renames=(*DEEP_STEM, *STATISTICS),
)
NAMINGS = (MMSEG_SWIN, MMSEG_RESNET_V1C, MMSEG_RESNET, TIMM_SWIN, MICROSOFT)
NAMINGS += (TIMM_RESNET, TIMM_RESNET_C, OPENMMLAB)
ACCEPTED = f"accepted: {', '.join(naming.name for naming in NAMINGS)}"


def recognise(path: str | Path, names: Mapping[str, Any]) -> Naming:
    """The kind of checkpoint that has these names; `path` is for the message if none has."""
    for naming in NAMINGS:
        if all(marker in names for marker in naming.markers):
            return naming
    raise ValueError(f"{path} is not a checkpoint of a known kind; {ACCEPTED}")


def mmseg_naming(backbone: str) -> Naming:
    """mmsegmentation's names for a segmentor with this backbone. Raises ValueError for others."""
    if backbone in swin.SIZES:
        return MMSEG_SWIN
    if backbone not in resnet.SIZES:
        raise ValueError(f"mmsegmentation has no backbone {backbone}; --to mmseg cannot write it")
    return MMSEG_RESNET_V1C if resnet.SIZES[backbone].deep_stem else MMSEG_RESNET


def default_weights(config: Config) -> str | None:
    """timm's model that the experiment starts from; None if timm has no weights of its backbone."""
    stem = Path(config.init_weights).stem
    return TIMM_WEIGHTS_OF_FILES.get(stem) or TIMM_WEIGHTS.get(config.backbone)


def timm_name(name: str) -> str | None:
    """A timm model's name with its tag, by default that of TIMM_WEIGHTS; None if unknown here."""
    name = name.removeprefix("timm/")
    tagged = {full.split(".")[0]: full for full in TIMM_WEIGHTS.values()}
    model, _, tag = name.partition(".")
    if model not in tagged or tag in ("pth", "pt", "bin", "safetensors"):
        return None
    return name if tag else tagged[model]


def rename(naming: Naming, key: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Name and array in this package's layout, except for the order of patch merging."""
    name = naming.prefix + key
    for theirs, ours in naming.renames:
        name = name.replace(theirs, ours)
    if name.endswith(".weight"):
        name = name.removesuffix("weight") + ("kernel" if array.ndim > 1 else "scale")
    if name.endswith(".kernel"):
        # OIHW -> HWIO, [out, in] -> [in, out]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return name, array


def rename_back(naming: Naming, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Inverse of `rename`."""
    if name.endswith(".kernel"):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    name = re.sub(r"\.(kernel|scale)$", ".weight", name)
    for theirs, ours in reversed(naming.renames):
        name = name.replace(ours, theirs)
    return name.removeprefix(naming.prefix), array


def from_unfold_order(array: np.ndarray) -> np.ndarray:
    """[4C, ...] indexed channel, row, column as torch's unfold does -> column, row, channel."""
    neighbours = array.reshape(-1, 2, 2, *array.shape[1:])  # C row column
    return neighbours.swapaxes(0, 2).reshape(array.shape)


def to_unfold_order(array: np.ndarray) -> np.ndarray:
    """Inverse of `from_unfold_order`."""
    neighbours = array.reshape(2, 2, -1, *array.shape[1:])  # column row C
    return neighbours.swapaxes(0, 2).reshape(array.shape)


def backbone_of(arrays: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Name and sizes of the backbone in arrays by our names, both for people."""
    pattern = r"backbone\.(?:layers\.|layer)(\d)\.(?:blocks\.)?(\d+)\."
    blocks = {match.groups() for name in arrays if (match := re.match(pattern, name))}
    depths = tuple(count for _, count in sorted(Counter(stage for stage, _ in blocks).items()))
    shown = f"depths {' '.join(map(str, depths))}"
    if "backbone.patch_embed.proj.bias" in arrays:
        embed_dim = arrays["backbone.patch_embed.proj.bias"].size
        names = {(size.embed_dim, size.depths): name for name, size in swin.SIZES.items()}
        name = names.get((embed_dim, depths), "a Swin of unknown size")
        return name, f"embed_dim {embed_dim}, {shown}"
    deep = "backbone.stem.1.conv.kernel" in arrays
    names = {size: name for name, size in resnet.SIZES.items()}
    name = names.get(resnet.ResNetSize(depths, deep), "a ResNet of unknown size")
    return name, f"{shown}, {'deep' if deep else '7×7'} stem"


def require_network(path: str | Path, arrays: Mapping[str, np.ndarray], config: Config) -> None:
    """Raises ValueError if the arrays, by our names, are of another network than that of `config`.

    `path` is for the message.
    """
    backbone, sizes = backbone_of(arrays)
    if not any(name.startswith(HEADS) for name in arrays):
        network, expected = backbone, config.backbone
        fitting = TIMM_WEIGHTS.get(expected)
        hint = f", or give timm's {fitting}" if fitting else ""
    else:
        heads = (head for head, marker in HEAD_MARKERS.items() if marker in arrays)
        network = f"{backbone} + {next(heads, 'an unknown head')}"
        expected, hint = f"{config.backbone} + {config.head}", ""
    if network != expected:
        raise ValueError(f"{path} holds {network} ({sizes}), not {expected}; check --exp{hint}")
