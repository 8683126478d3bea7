"""DeepLabV3+ head (Chen et al. 2018, arXiv:1802.02611): mmsegmentation's sep_aspp_head.

Pooling and a 1×1 convolution of the coarsest map beside depthwise-separable ones of three
dilations; their fusion meets the finest map at stride 4.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxparse.models.layers import (
    Classifier,
    ConvNormAct,
    DepthwiseNormAct,
    FusionNormAct,
    channel_dropout,
)
from jaxparse.models.ops.resize import adaptive_average_pool, resize_bilinear

DILATIONS = (12, 24, 36)
FINE_CHANNELS = 48  # of the finest map, reduced


class DepthwiseSeparable(nnx.Module):
    """Depthwise 3×3 and pointwise 1×1 convolution, each with batch norm and ReLU."""

    def __init__(
        self, in_channels: int, channels: int, dilation: int = 1, *, rngs: nnx.Rngs
    ) -> None:
        self.depthwise_conv = DepthwiseNormAct(in_channels, dilation, rngs=rngs)
        self.pointwise_conv = ConvNormAct(in_channels, channels, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.pointwise_conv(self.depthwise_conv(x))


class DeepLabHead(nnx.Module):
    """Maps [B, H_i, W_i, C_i], finest first -> logits [B, H_0, W_0, num_classes]."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        finest, *_, coarsest = in_channels
        self.image_pool = ConvNormAct(coarsest, channels, 1, rngs=rngs)
        self.aspp_modules = nnx.List(
            [ConvNormAct(coarsest, channels, 1, rngs=rngs)]
            + [DepthwiseSeparable(coarsest, channels, d, rngs=rngs) for d in DILATIONS]
        )
        pyramid = [channels] * (2 + len(DILATIONS))
        self.bottleneck = FusionNormAct(pyramid, channels, rngs=rngs)
        self.c1_bottleneck = ConvNormAct(finest, FINE_CHANNELS, 1, rngs=rngs)
        self.sep_bottleneck = nnx.List(
            [
                DepthwiseSeparable(channels + FINE_CHANNELS, channels, rngs=rngs),
                DepthwiseSeparable(channels, channels, rngs=rngs),
            ]
        )
        self.dropout = channel_dropout(dropout_rate)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs)

    def __call__(self, maps: Sequence[Array], rngs: nnx.Rngs | None = None) -> Array:
        finest, *_, coarsest = maps
        pooled = self.image_pool(adaptive_average_pool(coarsest, 1))
        pyramid = [pooled, *(module(coarsest) for module in self.aspp_modules)]
        x = self.bottleneck(pyramid, coarsest.shape[1:3])
        fine = self.c1_bottleneck(finest)
        x = jnp.concatenate([resize_bilinear(x, fine.shape[1:3]), fine], axis=-1)
        for module in self.sep_bottleneck:
            x = module(x)
        return self.conv_seg(self.dropout(x, rngs=rngs))
