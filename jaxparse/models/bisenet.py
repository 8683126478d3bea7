"""BiSeNet (Yu et al. 2018, arXiv:1808.00897) for faces, as in zllrunning's face-parsing.PyTorch.

The paper's spatial path is left out: the backbone's map at stride 8 takes its place. facexlib's and
yakhyo's networks are the same. Its backbones are ResNet-18 and -34 (He et al. 2016,
arXiv:1512.03385), not dilated. Names are zllrunning's, but for the classifiers and the backbone.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxparse.models.layers import BatchNorm, Classifier, Conv, ConvNormAct
from jaxparse.models.ops.products import relu, widen
from jaxparse.models.ops.resize import adaptive_average_pool, resize_nearest
from jaxparse.models.segmentor import Logits

CONTEXT_CHANNELS = 128
FUSED_CHANNELS = 256
AUXILIARY_CHANNELS = 64
REDUCTION = 4  # of the channels between the two convolutions of the fusion's attention


def gate(x: Array) -> Array:
    """Sigmoid, in float32 inside."""
    return jax.nn.sigmoid(widen(x)).astype(x.dtype)


class AttentionRefinement(nnx.Module):
    """3×3 convolution whose channels are weighted by what they are over the whole map."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.conv = ConvNormAct(in_channels, channels, 3, rngs=rngs)
        self.conv_atten = Conv(channels, channels, 1, rngs=rngs)
        self.bn_atten = BatchNorm(channels)

    def __call__(self, x: Array) -> Array:
        x = self.conv(x)
        return x * gate(self.bn_atten(self.conv_atten(adaptive_average_pool(x, 1))))


class FeatureFusion(nnx.Module):
    """1×1 convolution of two maps, whose channels count once or, where the gate is open, twice."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.convblk = ConvNormAct(in_channels, channels, 1, rngs=rngs)
        self.conv1 = Conv(channels, channels // REDUCTION, 1, rngs=rngs)
        self.conv2 = Conv(channels // REDUCTION, channels, 1, rngs=rngs)

    def __call__(self, fine: Array, context: Array) -> Array:
        x = self.convblk(jnp.concatenate([fine, context], axis=-1))
        return x * (1 + gate(self.conv2(relu(self.conv1(adaptive_average_pool(x, 1))))))


class Output(nnx.Module):
    """3×3 convolution and a classifier without bias: [B, H, W, C] -> [B, H, W, num_classes]."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, *, rngs: nnx.Rngs
    ) -> None:
        self.conv = ConvNormAct(in_channels, channels, 3, rngs=rngs)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs, use_bias=False)

    def __call__(self, x: Array) -> Array:
        return self.conv_seg(self.conv(x))


class BiSeNetHead(nnx.Module):
    """Maps [B, H_i, W_i, C_i], finest first -> logits at the sizes of the second and third.

    The context of the coarsest map, and of the mean over all of it, comes down to the second.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, *, rngs: nnx.Rngs) -> None:
        _, fine, middle, coarse = in_channels
        channels = CONTEXT_CHANNELS
        self.arm16 = AttentionRefinement(middle, channels, rngs=rngs)
        self.arm32 = AttentionRefinement(coarse, channels, rngs=rngs)
        self.conv_avg = ConvNormAct(coarse, channels, 1, rngs=rngs)
        self.conv_head16 = ConvNormAct(channels, channels, 3, rngs=rngs)
        self.conv_head32 = ConvNormAct(channels, channels, 3, rngs=rngs)
        self.ffm = FeatureFusion(fine + channels, FUSED_CHANNELS, rngs=rngs)
        self.conv_out = Output(FUSED_CHANNELS, FUSED_CHANNELS, num_classes, rngs=rngs)
        self.conv_out16 = Output(channels, AUXILIARY_CHANNELS, num_classes, rngs=rngs)
        self.conv_out32 = Output(channels, AUXILIARY_CHANNELS, num_classes, rngs=rngs)

    def __call__(self, maps: Sequence[Array]) -> Logits:
        _, fine, middle, coarse = maps
        average = self.conv_avg(adaptive_average_pool(coarse, 1))
        context32 = resize_nearest(self.arm32(coarse) + average, middle.shape[1:3])
        context32 = self.conv_head32(context32)  # at the size of the third map
        context16 = resize_nearest(self.arm16(middle) + context32, fine.shape[1:3])
        context16 = self.conv_head16(context16)  # at the size of the second
        decode = self.conv_out(self.ffm(fine, context16))
        return Logits(decode, (self.conv_out16(context16), self.conv_out32(context32)))


class BiSeNet(nnx.Module):
    """Normalised image [B, H, W, 3], any H and W, -> logits at strides 8, 8 and 16.

    The auxiliary ones only help training; when they are not used, jit leaves them out.
    """

    def __init__(self, backbone: nnx.Module, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.backbone = backbone
        self.decode_head = BiSeNetHead(backbone.channels, num_classes, rngs=rngs)

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> Logits:
        return self.decode_head(self.backbone(image, rngs))
