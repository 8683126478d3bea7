"""SegFormer (Xie et al. 2021, arXiv:2105.15203): the MiT backbone and the heads of products only.

`SegformerHead` is the head of the paper's authors and of Hugging Face; mmsegmentation's puts a
batch norm and a ReLU behind each map's product. Layer norms take torch's default epsilon, as in
Hugging Face's; mmsegmentation's take 1e-6, which changes logits by 1e-5 of their size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.models.layers import (
    BatchNorm,
    Classifier,
    Conv,
    ConvNormAct,
    DepthwiseConv,
    DropPath,
    LayerNorm,
    Linear,
    TransformerBlock,
    channel_dropout,
)
from jaxparse.models.ops.products import attention, gelu, matmul, relu
from jaxparse.models.ops.resize import sum_of_resized

STRIDES = (4, 2, 2, 2)
PATCH_SIZES = (7, 3, 3, 3)
REDUCTIONS = (8, 4, 2, 1)  # of the map that keys and values come from, by side
MLP_RATIO = 4
depthwise_init = nnx.initializers.normal((2 / 9) ** 0.5)  # He's, over the nine taps of a channel


class PatchEmbed(nnx.Module):
    """Overlapping patches to tokens: a convolution with stride, then a layer norm (section 3.1)."""

    def __init__(
        self, in_channels: int, dim: int, size: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        self.proj = Conv(in_channels, dim, size, rngs=rngs, stride=stride, use_bias=True)
        self.norm = LayerNorm(dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.proj(x))


class Reduction(nnx.Module):
    """Convolution of size×size patches that do not overlap; drops what does not fill a patch."""

    def __init__(self, dim: int, size: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (size, size, dim, dim)))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Array) -> Array:
        batch, _, _, channels = x.shape
        kernel = self.kernel[...].astype(x.dtype)
        size = len(kernel)
        height, width = x.shape[1] // size, x.shape[2] // size
        x = x[:, : height * size, : width * size]
        x = x.reshape(batch, height, size, width, size, channels).swapaxes(2, 3)
        x = x.reshape(batch, height, width, -1)  # B h w row·column·C
        return matmul(x, kernel.reshape(-1, channels)) + self.bias[...].astype(x.dtype)


class ReducedAttention(nnx.Module):
    """Attention of every token to those of a smaller map (section 3.1)."""

    def __init__(self, dim: int, num_heads: int, reduction: int, *, rngs: nnx.Rngs) -> None:
        self.num_heads = num_heads
        self.q = Linear(dim, dim, rngs=rngs)
        self.kv = Linear(dim, 2 * dim, rngs=rngs)
        self.proj = Linear(dim, dim, rngs=rngs)
        if reduction > 1:
            self.sr = Reduction(dim, reduction, rngs=rngs)
            self.norm = LayerNorm(dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        head = (self.num_heads, channels // self.num_heads)
        q = self.q(x).reshape(batch, height * width, *head)
        kv = self.kv(self.norm(self.sr(x)) if hasattr(self, "sr") else x)
        kv = kv.reshape(batch, -1, 2, *head)  # B M 2 heads C/heads
        x = attention(q, kv[:, :, 0], kv[:, :, 1])
        return self.proj(x.reshape(batch, height, width, channels))


class MixMlp(nnx.Module):
    """Two linear layers with a depthwise convolution, which tells places apart, between them."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        hidden = MLP_RATIO * dim
        self.fc1 = Linear(dim, hidden, rngs=rngs)
        self.dwconv = DepthwiseConv(hidden, rngs=rngs, use_bias=True, kernel_init=depthwise_init)
        self.fc2 = Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc2(gelu(self.dwconv(self.fc1(x))))


class MiTBlock(TransformerBlock):
    """Attention to a smaller map and MLP."""

    def __init__(
        self, dim: int, num_heads: int, reduction: int, drop_path_rate: float, *, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = LayerNorm(dim, rngs=rngs)
        self.attn = ReducedAttention(dim, num_heads, reduction, rngs=rngs)
        self.norm2 = LayerNorm(dim, rngs=rngs)
        self.mlp = MixMlp(dim, rngs=rngs)
        self.drop_path = DropPath(drop_path_rate)


class MiTStage(nnx.Module):
    """Patches, blocks, and the layer norm of the output."""

    def __init__(
        self,
        stage: int,
        in_channels: int,
        dim: int,
        num_heads: int,
        drop_path_rates: list[float],
        rngs: nnx.Rngs,
    ) -> None:
        size, stride, reduction = PATCH_SIZES[stage], STRIDES[stage], REDUCTIONS[stage]
        self.patch_embed = PatchEmbed(in_channels, dim, size, stride, rngs=rngs)
        self.blocks = nnx.List(
            MiTBlock(dim, num_heads, reduction, rate, rngs=rngs) for rate in drop_path_rates
        )
        self.norm = LayerNorm(dim, rngs=rngs)

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x, rngs)
        return self.norm(x)


class MiTSize(NamedTuple):
    """Channels, blocks and attention heads of each stage."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...] = (1, 2, 5, 8)


class MiT(nnx.Module):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 4, 8, 16, 32."""

    def __init__(self, size: MiTSize, drop_path_rate: float, *, rngs: nnx.Rngs) -> None:
        self.channels = size.channels
        rates = iter(np.linspace(0, drop_path_rate, sum(size.depths)).tolist())
        inputs = (3, *size.channels[:-1])
        sizes = zip(inputs, size.channels, size.num_heads, size.depths, strict=True)
        self.stages = nnx.List(
            MiTStage(stage, inputs, dim, heads, [next(rates) for _ in range(depth)], rngs)
            for stage, (inputs, dim, heads, depth) in enumerate(sizes)
        )

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> list[Array]:
        x, outputs = image, []
        for stage in self.stages:
            x = stage(x, rngs)
            outputs.append(x)
        return outputs


def fused_products(maps: Sequence[Array], linears: Sequence[Linear], fuse: Conv) -> Array:
    """`fuse`, 1×1, of a product of each map [B, H_i, W_i, C_i], resized to the first's and
    concatenated, coarsest first -> [B, H_0, W_0, C].

    A product commutes with resizing, so the two are one, with one small kernel, at each map's own
    size: at 512×512 SegFormer-B0's head takes 2 instead of 9 GFLOP.
    """
    kernels = jnp.split(fuse.kernel[0, 0], len(maps))[::-1]
    parts, bias = [], 0
    for x, linear, kernel in zip(maps, linears, kernels, strict=True):
        parts.append(matmul(x, (linear.kernel[...] @ kernel).astype(x.dtype)))
        bias += linear.bias[...] @ kernel
    return sum_of_resized(parts) + bias.astype(maps[0].dtype)


class SegformerHead(nnx.Module):
    """A product of each map, resized and concatenated, and a product of all (section 3.2).

    Takes maps [B, H_i, W_i, C_i], finest first, and gives logits [B, H_0, W_0, num_classes].
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.linear_c = nnx.List(Linear(c, channels, rngs=rngs) for c in in_channels)
        self.linear_fuse = Conv(len(in_channels) * channels, channels, 1, rngs=rngs)
        self.bn = BatchNorm(channels)
        self.dropout = channel_dropout(dropout_rate)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs)

    def __call__(self, maps: Sequence[Array], rngs: nnx.Rngs | None = None) -> Array:
        fused = fused_products(maps, self.linear_c, self.linear_fuse)
        return self.conv_seg(self.dropout(relu(self.bn(fused)), rngs=rngs))


class MMSegformerHead(nnx.Module):
    """mmsegmentation's `SegformerHead`: batch norm and ReLU also behind each map's product.

    Maps and logits as those of `SegformerHead`; the maps are concatenated finest first.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.convs = nnx.List(ConvNormAct(c, channels, 1, rngs=rngs) for c in in_channels)
        self.fusion_conv = ConvNormAct(len(in_channels) * channels, channels, 1, rngs=rngs)
        self.dropout = channel_dropout(dropout_rate)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs)

    def __call__(self, maps: Sequence[Array], rngs: nnx.Rngs | None = None) -> Array:
        fusion = self.fusion_conv
        kernels = jnp.split(fusion.conv.kernel[0, 0], len(maps))
        parts = [
            matmul(conv(x), kernel.astype(x.dtype))
            for x, conv, kernel in zip(maps, self.convs, kernels, strict=True)
        ]
        fused = relu(fusion.bn(sum_of_resized(parts)))
        return self.conv_seg(self.dropout(fused, rngs=rngs))


WIDE = (64, 128, 320, 512)
SIZES = {
    "mit_slim": MiTSize((32, 64, 120, 152), (2, 2, 2, 2), (1, 2, 4, 4)),
    "mit_b0": MiTSize((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": MiTSize(WIDE, (2, 2, 2, 2)),
    "mit_b2": MiTSize(WIDE, (3, 4, 6, 3)),
    "mit_b3": MiTSize(WIDE, (3, 4, 18, 3)),
    "mit_b4": MiTSize(WIDE, (3, 8, 27, 3)),
    "mit_b5": MiTSize(WIDE, (3, 6, 40, 3)),
}
