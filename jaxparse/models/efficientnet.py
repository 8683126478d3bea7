"""EfficientNet-Lite backbones (Tan and Le 2019, arXiv:1905.11946), as TensorFlow's TPU models.

Lite: no squeeze-and-excitation, ReLU6, a stem and a last stage that do not scale. Padding is
TensorFlow's SAME, batch norm's epsilon 1e-3. Names are timm's (tf_efficientnet_lite0). What
classification adds to the last map, a 1×1 convolution and a classifier, is left out.
"""

import math
from typing import NamedTuple

from flax import nnx
from jax import Array

from jaxparse.models.layers import BatchNorm, Block, Conv, DepthwiseConv
from jaxparse.models.ops.products import relu6

STEM_CHANNELS = 32
EPSILON = 1e-3  # of batch norm


class StageSize(NamedTuple):
    """A stage before scaling; its first block has the stride."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    depth: int


STAGES = (
    StageSize(3, 1, 1, 16, 1),
    StageSize(3, 2, 6, 24, 2),
    StageSize(5, 2, 6, 40, 2),
    StageSize(3, 2, 6, 80, 3),
    StageSize(5, 1, 6, 112, 3),
    StageSize(5, 2, 6, 192, 4),
    StageSize(3, 1, 6, 320, 1),
)
OUTPUTS = (1, 2, 4, 6)  # the last stages of strides 4, 8, 16 and 32


def norm(channels: int) -> BatchNorm:
    """Batch norm as TensorFlow's networks have it."""
    return BatchNorm(channels, epsilon=EPSILON)


class DepthwiseSeparable(Block):
    """Depthwise convolution, then a 1×1 convolution without activation."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        self.conv_dw = DepthwiseConv(in_channels, kernel, rngs=rngs, stride=stride, same=True)
        self.bn1 = norm(in_channels)
        self.conv_pw = Conv(in_channels, channels, 1, rngs=rngs)
        self.bn2 = norm(channels)

    def forward(self, x: Array) -> Array:
        x = relu6(self.bn1(self.conv_dw(x)))
        return self.bn2(self.conv_pw(x))


class InvertedResidual(Block):
    """1×1 convolution to more channels, depthwise one, 1×1 convolution back without activation.

    Around it a residual, where input and output have one shape.
    """

    def __init__(
        self, in_channels: int, channels: int, stage: StageSize, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        inner = stage.expansion * in_channels
        self.conv_pw = Conv(in_channels, inner, 1, rngs=rngs)
        self.bn1 = norm(inner)
        self.conv_dw = DepthwiseConv(inner, stage.kernel, rngs=rngs, stride=stride, same=True)
        self.bn2 = norm(inner)
        self.conv_pwl = Conv(inner, channels, 1, rngs=rngs)
        self.bn3 = norm(channels)
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Array) -> Array:
        out = relu6(self.bn1(self.conv_pw(x)))
        out = relu6(self.bn2(self.conv_dw(out)))
        out = self.bn3(self.conv_pwl(out))
        return x + out if self.is_residual else out


class Size(NamedTuple):
    """Factors of the channels and of the blocks."""

    width: float
    depth: float

    def channels(self, channels: int) -> int:
        """Scaled, to the next multiple of 8 that is not below nine tenths of it."""
        scaled = channels * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 * (rounded < 0.9 * scaled)

    def depths(self) -> list[int]:
        """Blocks of each stage."""
        first, *middle, last = (stage.depth for stage in STAGES)
        return [first, *(math.ceil(self.depth * depth) for depth in middle), last]


class EfficientNet(nnx.Module):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 4, 8, 16, 32."""

    def __init__(self, size: Size, *, rngs: nnx.Rngs) -> None:
        self.channels = tuple(size.channels(STAGES[index].channels) for index in OUTPUTS)
        self.conv_stem = Conv(3, STEM_CHANNELS, 3, rngs=rngs, stride=2, same=True)
        self.bn1 = norm(STEM_CHANNELS)
        stages, in_channels = [], STEM_CHANNELS
        for stage, depth in zip(STAGES, size.depths(), strict=True):
            channels, blocks = size.channels(stage.channels), []
            for index in range(depth):
                stride = 1 if index else stage.stride
                if stage.expansion == 1:
                    block = DepthwiseSeparable(
                        in_channels, channels, stage.kernel, stride, rngs=rngs
                    )
                else:
                    block = InvertedResidual(in_channels, channels, stage, stride, rngs=rngs)
                blocks.append(block)
                in_channels = channels
            stages.append(nnx.List(blocks))
        self.blocks = nnx.List(stages)

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> list[Array]:
        x = relu6(self.bn1(self.conv_stem(image)))
        maps = []
        for stage in self.blocks:
            for block in stage:
                x = block(x)
            maps.append(x)
        return [maps[index] for index in OUTPUTS]


SIZES = {
    "efficientnet_lite0": Size(1.0, 1.0),
    "efficientnet_lite1": Size(1.0, 1.1),
    "efficientnet_lite2": Size(1.1, 1.2),
}
