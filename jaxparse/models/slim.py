"""A slim ResNet of basic blocks (He et al. 2016, arXiv:1512.03385), to train from scratch.

Two convolutions of stride 2 in place of the 7×7 one and the pooling, and strides 4 to 32, not
dilated: most of its arithmetic lies in dense 3×3 convolutions, which every device is fastest at.
"""

from flax import nnx
from jax import Array

from jaxparse.models.layers import BatchNorm, Block, Conv, ConvNormAct
from jaxparse.models.ops.products import relu


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


# Channels and blocks of the four stages.
SIZES = {"resnet_slim": ((32, 64, 128, 160), (2, 2, 2, 1))}
