"""ResNet backbones (He et al. 2016, arXiv:1512.03385).

Bottlenecks are dilated, as mmsegmentation runs them: the last two stages keep stride 8 and dilate
their 3×3 convolutions by 2 and 4 instead, the first block of each by half of that (there called
contract_dilation). V1c (He et al. 2019, arXiv:1812.01187) has a stem of three 3×3 convolutions in
place of the 7×7 one. Names are timm's and mmsegmentation's; the stems of all variants are lists
here. ResNet-18 and -34 are not dilated. The slim one, to train from scratch, has two convolutions
of stride 2 in place of the 7×7 one and the pooling: most of its arithmetic lies in dense 3×3
convolutions, which every device is fastest at.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx
from jax import Array

from jaxparse.models.layers import BatchNorm, Block, Conv, ConvNormAct
from jaxparse.models.ops.convolution import max_pool3x3
from jaxparse.models.ops.products import relu

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4  # channels of a block's output over its width
STEM_CHANNELS = 64
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)


class Bottleneck(Block):
    """1×1, 3×3 and 1×1 convolutions around a residual; stride and dilation are the 3×3 one's."""

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, *, rngs: nnx.Rngs
    ) -> None:
        channels = EXPANSION * width
        self.conv1 = Conv(in_channels, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, rngs=rngs, stride=stride, dilation=dilation)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, channels, 1, rngs=rngs)
        self.bn3 = BatchNorm(channels, scale=0)  # from scratch a block starts as the identity
        if in_channels != channels:
            self.downsample = nnx.List(
                [Conv(in_channels, channels, 1, rngs=rngs, stride=stride), BatchNorm(channels)]
            )

    def forward(self, x: Array) -> Array:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if hasattr(self, "downsample"):
            conv, norm = self.downsample
            x = norm(conv(x))
        return relu(out + x)


class BasicBlock(Block):
    """Two 3×3 convolutions around a residual; the first has the stride."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(in_channels, channels, 3, rngs=rngs, stride=stride)
        self.bn1 = BatchNorm(channels)
        self.conv2 = Conv(channels, channels, 3, rngs=rngs)
        self.bn2 = BatchNorm(channels, scale=0)  # from scratch a block starts as the identity
        if stride > 1 or in_channels != channels:
            self.downsample = nnx.List(
                [Conv(in_channels, channels, 1, rngs=rngs, stride=stride), BatchNorm(channels)]
            )

    def forward(self, x: Array) -> Array:
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if hasattr(self, "downsample"):
            conv, norm = self.downsample
            x = norm(conv(x))
        return relu(out + x)


class ResNetSize(NamedTuple):
    """Blocks of each stage, and whether the stem is V1c's."""

    depths: tuple[int, ...]
    deep_stem: bool


class ResNet(nnx.Module):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 4, 8, 8, 8."""

    def __init__(
        self,
        size: ResNetSize,
        *,
        rngs: nnx.Rngs,
        strides: tuple[int, ...] = STRIDES,
        dilations: tuple[int, ...] = DILATIONS,
    ) -> None:
        self.channels = tuple(EXPANSION * width for width in WIDTHS)
        half = STEM_CHANNELS // 2
        if size.deep_stem:
            stem = [
                ConvNormAct(3, half, 3, rngs=rngs, stride=2),
                ConvNormAct(half, half, 3, rngs=rngs),
                ConvNormAct(half, STEM_CHANNELS, 3, rngs=rngs),
            ]
        else:
            stem = [ConvNormAct(3, STEM_CHANNELS, 7, rngs=rngs, stride=2)]
        self.stem = nnx.List(stem)
        in_channels = STEM_CHANNELS
        for i, (depth, width) in enumerate(zip(size.depths, WIDTHS, strict=True)):
            first_dilation = max(dilations[i] // 2, 1)
            blocks = [Bottleneck(in_channels, width, strides[i], first_dilation, rngs=rngs)]
            in_channels = EXPANSION * width
            blocks += [
                Bottleneck(in_channels, width, 1, dilations[i], rngs=rngs) for _ in range(1, depth)
            ]
            setattr(self, f"layer{i + 1}", nnx.List(blocks))

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> list[Array]:
        x = image
        for conv in self.stem:
            x = conv(x)
        x = max_pool3x3(x)
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x)
            outputs.append(x)
        return outputs


class BasicResNet(ResNet):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 4, 8, 16, 32.

    Of basic blocks; it differs from the other ResNets in how it is built only.
    """

    def __init__(
        self, depths: Sequence[int], channels: Sequence[int] = WIDTHS, *, rngs: nnx.Rngs
    ) -> None:
        self.channels = tuple(channels)
        self.stem = nnx.List([ConvNormAct(3, STEM_CHANNELS, 7, rngs=rngs, stride=2)])
        in_channels = STEM_CHANNELS
        for i, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            blocks = [BasicBlock(in_channels, width, 2 if i else 1, rngs=rngs)]
            blocks += [BasicBlock(width, width, 1, rngs=rngs) for _ in range(1, depth)]
            setattr(self, f"layer{i + 1}", nnx.List(blocks))
            in_channels = width


class SlimResNet(nnx.Module):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 4, 8, 16, 32."""

    def __init__(
        self, channels: tuple[int, ...], depths: tuple[int, ...], *, rngs: nnx.Rngs
    ) -> None:
        self.channels = channels
        first = channels[0]
        self.stem = nnx.List(
            [
                ConvNormAct(3, first // 2, 3, rngs=rngs, stride=2),
                ConvNormAct(first // 2, first, 3, rngs=rngs, stride=2),
            ]
        )
        stages, in_channels = [], first
        for index, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            stride = 2 if index else 1
            blocks = [BasicBlock(in_channels, width, stride, rngs=rngs)]
            blocks += [BasicBlock(width, width, 1, rngs=rngs) for _ in range(1, depth)]
            stages.append(nnx.List(blocks))
            in_channels = width
        self.stages = nnx.List(stages)

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> list[Array]:
        x = image
        for conv in self.stem:
            x = conv(x)
        outputs = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            outputs.append(x)
        return outputs


SIZES = {
    "resnet50": ResNetSize((3, 4, 6, 3), deep_stem=False),
    "resnet101": ResNetSize((3, 4, 23, 3), deep_stem=False),
    "resnet50_v1c": ResNetSize((3, 4, 6, 3), deep_stem=True),
    "resnet101_v1c": ResNetSize((3, 4, 23, 3), deep_stem=True),
}
# Blocks of the four stages.
BASIC_SIZES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
# Channels and blocks of the four stages.
SLIM_SIZES = {"resnet_slim": ((32, 64, 128, 160), (2, 2, 2, 1))}
