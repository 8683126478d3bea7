"""CLIP's vision transformer as FaRL parses faces with it (Zheng et al. 2022, arXiv:2112.03109).

ViT-B/16 (Dosovitskiy et al. 2021, arXiv:2010.11929) with CLIP's layer norm before the blocks and
its approximate GELU (Radford et al. 2021, arXiv:2103.00020). As BEiT does for segmentation (Bao et
al. 2022, arXiv:2106.08254), the maps after four of the blocks, all at stride 16, are brought to
strides 4, 8, 16 and 32. Parameter names are timm's but for `fpns`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.models.layers import (
    BatchNorm,
    DropPath,
    LayerNorm,
    Linear,
    TransformerBlock,
    TransposedConv,
    torch_conv_init,
)
from jaxparse.models.ops.products import attention, gelu, matmul
from jaxparse.models.ops.resize import resize_bilinear
from jaxparse.models.swin import Mlp


def quick_gelu(x: Array) -> Array:
    """CLIP's approximation of GELU: x · sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def max_pool(x: Array) -> Array:
    """[B, H, W, C] -> [B, H // 2, W // 2, C]: the largest of 2×2; drops what is left over."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


class PatchEmbed(nnx.Module):
    """Patches that do not overlap to tokens, by one product without bias."""

    def __init__(self, dim: int, size: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(torch_conv_init(rngs.params(), (size, size, 3, dim)))

    def __call__(self, image: Array) -> Array:
        """[B, H, W, 3] -> [B, H / size, W / size, dim]."""
        batch, height, width, channels = image.shape
        size, _, _, dim = self.kernel.shape
        x = image.reshape(batch, height // size, size, width // size, size, channels)
        x = x.swapaxes(2, 3).reshape(batch, height // size, width // size, -1)
        return matmul(x, self.kernel[...].astype(x.dtype).reshape(-1, dim))


class Attention(nnx.Module):
    """Attention of all tokens [B, N, C] to each other."""

    def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs) -> None:
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, rngs=rngs)
        self.proj = Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1)  # B N 3 heads C/heads
        return self.proj(attention(*(qkv[:, :, part] for part in range(3))).reshape(x.shape))


class ViTBlock(TransformerBlock):
    """Attention of all tokens and MLP."""

    def __init__(self, dim: int, num_heads: int, drop_path_rate: float, *, rngs: nnx.Rngs) -> None:
        self.norm1 = LayerNorm(dim, rngs=rngs)
        self.attn = Attention(dim, num_heads, rngs=rngs)
        self.norm2 = LayerNorm(dim, rngs=rngs)
        self.mlp = Mlp(dim, rngs=rngs, activation=quick_gelu)  # CLIP's
        self.drop_path = DropPath(drop_path_rate)


class Quadrupling(nnx.Module):
    """Two transposed convolutions with batch norm and GELU between: [B, 4H, 4W, C]."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = TransposedConv(dim, dim, rngs=rngs)
        self.bn = BatchNorm(dim)
        self.conv2 = TransposedConv(dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv2(gelu(self.bn(self.conv1(x))))


class ViTSize(NamedTuple):
    """Channels of all maps, attention heads, blocks, and those after which maps are taken."""

    dim: int
    num_heads: int
    depth: int
    outputs: tuple[int, ...]
    patch_size: int = 16
    grid: int = 28  # patches along a side of the picture: 448 pixels


class ViT(nnx.Module):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 4, 8, 16, 32 of 448×448.

    As FaRL does, it resizes pictures of any other size to the one its positions were learnt for,
    bilinearly and without smoothing.
    """

    def __init__(self, size: ViTSize, drop_path_rate: float, *, rngs: nnx.Rngs) -> None:
        self.channels = (size.dim,) * len(size.outputs)
        self.outputs = size.outputs
        init = nnx.initializers.normal(size.dim**-0.5)
        self.patch_embed = PatchEmbed(size.dim, size.patch_size, rngs=rngs)
        self.cls_token = nnx.Param(init(rngs.params(), (size.dim,)))
        self.pos_embed = nnx.Param(init(rngs.params(), (size.grid**2 + 1, size.dim)))
        self.norm_pre = LayerNorm(size.dim, rngs=rngs)
        rates = np.linspace(0, drop_path_rate, size.depth).tolist()
        self.blocks = nnx.List(
            ViTBlock(size.dim, size.num_heads, rate, rngs=rngs) for rate in rates
        )
        doubling = TransposedConv(size.dim, size.dim, rngs=rngs)
        self.fpns = nnx.List([Quadrupling(size.dim, rngs=rngs), doubling])

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> list[Array]:
        fine, finer, coarse, coarser = self.features(image, rngs)
        quadrupling, doubling = self.fpns
        return [quadrupling(fine), doubling(finer), coarse, max_pool(coarser)]

    def features(self, image: Array, rngs: nnx.Rngs | None) -> list[Array]:
        """[B, H, W, 3] -> four maps [B, grid, grid, C], without class token and norm."""
        batch, grid = image.shape[0], int((len(self.pos_embed) - 1) ** 0.5)
        side = grid * self.patch_embed.kernel.shape[0]
        x = self.patch_embed(resize_bilinear(image, (side, side)))
        dim = x.shape[-1]
        cls_token = jnp.broadcast_to(self.cls_token[...].astype(x.dtype), (batch, 1, dim))
        x = jnp.concatenate([cls_token, x.reshape(batch, -1, dim)], axis=1)  # B 1+N C
        x = self.norm_pre(x + self.pos_embed[...].astype(x.dtype))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x, rngs)
            if index in self.outputs:
                maps.append(x[:, 1:].reshape(batch, grid, grid, dim))
        return maps


SIZES = {"farl_vit_b16": ViTSize(768, 12, 12, (3, 5, 7, 11))}
