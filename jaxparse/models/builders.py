"""Networks: name -> builder."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
from flax import nnx

from jaxparse.config import Config
from jaxparse.files import brief
from jaxparse.models import bisenet, efficientnet, parsenet, resnet, segformer, swin, vit
from jaxparse.models.deeplab import DeepLabHead
from jaxparse.models.parsenet import ParseNetHead
from jaxparse.models.psanet import PSAHead
from jaxparse.models.segface import SegFaceHead
from jaxparse.models.segformer import MMSegformerHead, SegformerHead
from jaxparse.models.segmentor import AUXILIARY_STAGE, FCNHead, Segmentor
from jaxparse.models.upernet import UPerHead

BACKBONES = (*swin.SIZES, *segformer.SIZES, *vit.SIZES)
BACKBONES += (*resnet.SIZES, *resnet.BASIC_SIZES, *resnet.SLIM_SIZES, *parsenet.SIZES)
BACKBONES += tuple(efficientnet.SIZES)
HEADS: dict[str, Callable[..., nnx.Module]] = {
    "upernet": UPerHead,
    "deeplabv3plus": DeepLabHead,
    "psanet": PSAHead,
    "segformer": SegformerHead,
    "segformer_mmseg": MMSegformerHead,
    "segface": SegFaceHead,
    "parsenet": ParseNetHead,
}


# They pool a map to one pixel per picture and batch-normalise it: over a single picture the output
# is constant and the running variance goes to 0. torch refuses that.
POOLING_HEADS = ("upernet", "deeplabv3plus", "bisenet")


def fewest_pictures(config: Config) -> int:
    """Pictures that a training step needs at once for the network's batch norms."""
    return 2 if config.head in POOLING_HEADS else 1


def require_enough_pictures(config: Config) -> None:
    """Raises ValueError if batch norm would see a single value per channel."""
    pictures, fewest = config.batch_size // config.accumulate_steps, fewest_pictures(config)
    if pictures < fewest:
        raise ValueError(
            f"the head {config.head} needs {fewest} pictures at once for its batch norm, and "
            f"--batch-size {config.batch_size} in {config.accumulate_steps} parts gives "
            f"{pictures}: raise --batch-size or lower --accumulate-steps"
        )


def build_backbone(config: Config, rngs: nnx.Rngs) -> nnx.Module:
    """The backbone of `config`; its `channels` are those of its four maps.

    Raises ValueError for an unknown name.
    """
    if config.backbone in swin.SIZES:
        return swin.Swin(swin.SIZES[config.backbone], config.drop_path_rate, rngs=rngs)
    if config.backbone in segformer.SIZES:
        size = segformer.SIZES[config.backbone]
        return segformer.MiT(size, config.drop_path_rate, rngs=rngs)
    if config.backbone in vit.SIZES:
        return vit.ViT(vit.SIZES[config.backbone], config.drop_path_rate, rngs=rngs)
    if config.backbone in resnet.SIZES:
        return resnet.ResNet(resnet.SIZES[config.backbone], rngs=rngs)
    if config.backbone in resnet.BASIC_SIZES:
        return resnet.BasicResNet(resnet.BASIC_SIZES[config.backbone], rngs=rngs)
    if config.backbone in resnet.SLIM_SIZES:
        return resnet.SlimResNet(*resnet.SLIM_SIZES[config.backbone], rngs=rngs)
    if config.backbone in parsenet.SIZES:
        return parsenet.ParseNet(*parsenet.SIZES[config.backbone], rngs=rngs)
    if config.backbone in efficientnet.SIZES:
        return efficientnet.EfficientNet(efficientnet.SIZES[config.backbone], rngs=rngs)
    known = ", ".join(BACKBONES)
    raise ValueError(f"there is no backbone {brief(config.backbone)}; give one of: {known}")


def build_model(config: Config, key: jax.Array) -> Segmentor | bisenet.BiSeNet:
    """The network of `config`, randomly initialised. Raises ValueError for an unknown backbone."""
    rngs = nnx.Rngs(key)
    backbone = build_backbone(config, rngs)
    if config.head == "bisenet":  # has its own channels and auxiliary outputs, and no dropout
        return bisenet.BiSeNet(backbone, len(config.classes), rngs=rngs)
    rest = (len(config.classes), config.dropout_rate)
    head = HEADS[config.head](backbone.channels, config.head_channels, *rest, rngs=rngs)
    if not config.auxiliary_channels:
        return Segmentor(backbone, head)
    auxiliary = FCNHead(
        backbone.channels[AUXILIARY_STAGE], config.auxiliary_channels, *rest, rngs=rngs
    )
    return Segmentor(backbone, head, auxiliary)


# All that `build_model` reads.
BUILT_FROM = ("backbone", "head", "head_channels", "auxiliary_channels", "classes")
BUILT_FROM += ("drop_path_rate", "dropout_rate")


@lru_cache(maxsize=4)
def _split(config: Config) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    model = nnx.eval_shape(lambda: build_model(config, jax.random.key(0)))
    return nnx.split(model, nnx.Param, nnx.BatchStat)


def split_model(config: Config) -> tuple[nnx.GraphDef, dict[str, Any], dict[str, Any]]:
    """Graph definition, params and batch_stats of the network, the arrays abstract.

    Of a network that was built lately they are at hand: a command asks for them two or three times,
    which takes 0.2 s each.
    """
    network = Config(**{name: getattr(config, name) for name in BUILT_FROM})
    graphdef, params, batch_stats = _split(network)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
