"""Backbone, decode head and auxiliary head as one network, and what its input is."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.config import Config
from jaxparse.models.layers import Classifier, ConvNormAct, channel_dropout

AUXILIARY_STAGE = 2  # the third map: stride 16 of Swin, 8 of ResNet


def normalise(image: Array, config: Config) -> Array:
    """uint8 RGB [B, H, W, 3] -> float32: minus the config's image_mean, over its image_std."""
    mean, std = (np.array(x, np.float32) for x in (config.image_mean, config.image_std))
    return ((image - mean) / std).astype(jnp.float32)


class Logits(NamedTuple):
    """Logits [B, h, w, num_classes] of the decode head, and of auxiliary heads if there are any."""

    decode: Array
    auxiliary: tuple[Array, ...]


class FCNHead(nnx.Module):
    """One map [B, H, W, C] -> logits [B, H, W, num_classes]: a 3×3 convolution and a classifier.

    Long et al. 2015, arXiv:1411.4038; mmsegmentation's FCNHead with one convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.convs = nnx.List([ConvNormAct(in_channels, channels, 3, rngs=rngs)])
        self.dropout = channel_dropout(dropout_rate)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        for conv in self.convs:
            x = conv(x)
        return self.conv_seg(self.dropout(x, rngs=rngs))


class Segmentor(nnx.Module):
    """Normalised image [B, H, W, 3], any H and W, -> logits; mmsegmentation's EncoderDecoder.

    An auxiliary head only helps training; when its logits are not used, jit leaves it out.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        decode_head: nnx.Module,
        auxiliary_head: nnx.Module | None = None,
    ) -> None:
        self.backbone = backbone
        self.decode_head = decode_head
        if auxiliary_head:
            self.auxiliary_head = auxiliary_head

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> Logits:
        maps = self.backbone(image, rngs)
        decode = self.decode_head(maps, rngs)
        if not hasattr(self, "auxiliary_head"):
            return Logits(decode, ())
        return Logits(decode, (self.auxiliary_head(maps[AUXILIARY_STAGE], rngs),))
