"""ParseNet of PSFRGAN (Chen et al. 2021, arXiv:2009.08709), which facexlib carries for faces.

An encoder to stride 16, ten residual blocks there, a decoder back to the size of the picture. All
convolutions are 3×3 with reflected borders; shortcuts that resize are convolutions too.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxparse.models.layers import BatchNorm, Block, kaiming_init
from jaxparse.models.ops.products import widen
from jaxparse.models.ops.resize import resize_nearest
from jaxparse.models.ops.winograd import conv3x3

SLOPE = 0.2  # of LeakyReLU below 0


class ReflectedConv(nnx.Module):
    """3×3 convolution of a map, at least 2×2, that is continued by its mirror image."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, use_bias: bool, *, rngs: nnx.Rngs
    ) -> None:
        self.stride = stride
        self.kernel = nnx.Param(kaiming_init(rngs.params(), (3, 3, in_channels, channels)))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        x, kernel = (
            jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"),
            self.kernel[...].astype(x.dtype),
        )
        if self.stride == 1:
            x = conv3x3(x, kernel)[:, 1:-1, 1:-1]
        else:
            strides, layout = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=layout)
        return x + self.bias[...].astype(x.dtype) if hasattr(self, "bias") else x


class Layer(nnx.Module):
    """Convolution of a map at `scale` 1, 1/2 or 2, by the nearest pixels; batch norm or bias."""

    def __init__(
        self, in_channels: int, channels: int, scale: float, norm: bool, *, rngs: nnx.Rngs
    ) -> None:
        self.scale = scale
        stride = 2 if scale < 1 else 1
        self.conv = ReflectedConv(in_channels, channels, stride, not norm, rngs=rngs)
        if norm:
            self.bn = BatchNorm(channels)

    def __call__(self, x: Array) -> Array:
        if self.scale > 1:
            x = resize_nearest(x, (2 * x.shape[1], 2 * x.shape[2]))
        x = self.conv(x)
        return self.bn(x) if hasattr(self, "bn") else x


class ResidualBlock(Block):
    """Two layers around a shortcut, without activation of the sum.

    The second layer takes half of the pixels, the first makes twice as many.
    """

    def __init__(self, in_channels: int, channels: int, scale: float, *, rngs: nnx.Rngs) -> None:
        first, second = max(scale, 1), min(scale, 1)
        if scale != 1:
            self.shortcut_func = Layer(in_channels, channels, scale, norm=False, rngs=rngs)
        self.conv1 = Layer(in_channels, channels, first, norm=True, rngs=rngs)
        self.conv2 = Layer(channels, channels, second, norm=True, rngs=rngs)

    def forward(self, x: Array) -> Array:
        out = self.conv2(jax.nn.leaky_relu(self.conv1(x), SLOPE))
        return out + (self.shortcut_func(x) if hasattr(self, "shortcut_func") else x)


class ParseNet(nnx.Module):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 2, 4, 8, 16.

    `channels` are those of the first convolution and of the maps; `depth` blocks follow the last.
    """

    def __init__(self, channels: Sequence[int], depth: int, *, rngs: nnx.Rngs) -> None:
        first, *self.channels = channels
        self.encoder = nnx.List([Layer(3, first, 1, norm=False, rngs=rngs)])
        for pair in zip(channels[:-1], channels[1:], strict=True):
            self.encoder.append(ResidualBlock(*pair, 0.5, rngs=rngs))
        last = channels[-1]
        self.body = nnx.List(ResidualBlock(last, last, 1, rngs=rngs) for _ in range(depth))

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> list[Array]:
        first, *blocks = self.encoder
        x, maps = first(image), []
        for block in blocks:
            x = block(x)
            maps.append(x)
        for block in self.body:
            x = block(x)
        return [*maps[:-1], maps[-1] + x]


class ParseNetHead(nnx.Module):
    """Takes maps [B, H_i, W_i, C_i], finest first: logits [B, 16 H_3, 16 W_3, num_classes].

    Only the last map counts. It has `channels` at the size of the logits, and no dropout.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        _dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        last = in_channels[-1]
        widths = [last, *(min(last, factor * channels) for factor in (8, 4, 2, 1))]
        self.decoder = nnx.List(
            ResidualBlock(*pair, 2, rngs=rngs) for pair in zip(widths[:-1], widths[1:], strict=True)
        )
        self.conv_seg = ReflectedConv(channels, num_classes, 1, use_bias=True, rngs=rngs)

    def __call__(self, maps: Sequence[Array], rngs: nnx.Rngs | None = None) -> Array:
        x = maps[-1]
        for block in self.decoder:
            x = block(x)
        return self.conv_seg(widen(x))


SIZES = {"parsenet": ((64, 128, 256, 256, 256), 10)}
