"""PSANet head (Zhao et al. 2018, ECCV, point-wise spatial attention), as mmsegmentation's PSAHead.

Bi-directional, 97×97 offsets, on maps shrunk by 2, with softmax. The reference computes the logits
of all 9409 offsets for every position and then picks those that stay within the map; here only
those are computed, row by row.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxparse.models.layers import (
    Classifier,
    Conv,
    ConvNormAct,
    FusionNormAct,
    channel_dropout,
    torch_conv_init,
)
from jaxparse.models.ops.products import widen
from jaxparse.models.ops.resize import resize_bilinear

MASK_SIZE = 97  # offsets of -48..48 rows and columns
SHRINK = 2


def offsets_within(kernel: Array, size: tuple[int, int]) -> Array:
    """[C, 97·97] -> [2H, 2W, C]: the offsets -(H - 1)..H and -(W - 1)..W that a map has.

    Offsets out of the mask's reach get a kernel of zeros: their logits are 0, as in the reference.
    The last row and column serve no pair of positions; they make the sizes even.
    """
    kernel = kernel.T.reshape(MASK_SIZE, MASK_SIZE, -1)
    for axis, length in enumerate(size):
        reach = MASK_SIZE // 2
        before, after = length - 1 - reach, length - reach
        pads = [(0, 0, 0)] * kernel.ndim
        pads[axis] = (before, after, 0)  # negative: cut off
        kernel = jax.lax.pad(kernel, jnp.zeros((), kernel.dtype), pads)
    return kernel


def offset_logits(attention: nnx.List, x: Array) -> Array:
    """[B, H, W, C] -> [B, H·W, H·W] float32: [p, q] is what position p gives to the offset q - p.

    `attention` is a convolution and one with 97·97 outputs, both 1×1.
    """
    conv, mask = attention
    x, (batch, height, width, _) = conv(x), x.shape
    kernel = offsets_within(mask.kernel[0, 0].astype(x.dtype), (height, width))  # 2H 2W C

    @jax.checkpoint  # else the gradient keeps the offsets of every row: H · H · 2W · C numbers
    def of_row(row: Array) -> Array:
        offsets = jax.lax.dynamic_slice_in_dim(kernel, height - 1 - row, height)  # H 2W C
        positions = jax.lax.dynamic_index_in_dim(x, row, axis=1, keepdims=False)  # B W C
        logits = jnp.einsum("bpc,roc->brpo", positions, offsets)  # B H W 2W
        # Column offset o of position p is column p + o - (W - 1): a shear of the last two axes.
        flat = logits.reshape(batch, height, 2 * width * width)
        flat = flat[:, :, width - 1 : width - 1 + width * (2 * width - 1)]
        sheared = flat.reshape(batch, height, width, 2 * width - 1)[..., :width]
        return sheared.swapaxes(1, 2).reshape(batch, width, height * width)

    rows = jax.lax.map(of_row, jnp.arange(height))  # H B W H·W
    return widen(rows.swapaxes(0, 1).reshape(batch, height * width, height * width))


def tokens(x: Array) -> Array:
    """[B, H, W, C] -> [B, H·W, C]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class PSAHead(nnx.Module):
    """Maps [B, H_i, W_i, C_i], finest first -> logits at the size of the last."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        coarsest = in_channels[-1]
        self.reduce = ConvNormAct(coarsest, channels, 1, rngs=rngs)
        self.attention = self._attention(channels, rngs)
        self.reduce_p = ConvNormAct(coarsest, channels, 1, rngs=rngs)
        self.attention_p = self._attention(channels, rngs)
        self.proj = ConvNormAct(2 * channels, coarsest, 1, rngs=rngs)
        self.bottleneck = FusionNormAct([coarsest, coarsest], channels, rngs=rngs)
        self.dropout = channel_dropout(dropout_rate)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs)

    @staticmethod
    def _attention(channels: int, rngs: nnx.Rngs) -> nnx.List:
        mask = Conv(channels, MASK_SIZE**2, 1, rngs=rngs, kernel_init=torch_conv_init)
        return nnx.List([ConvNormAct(channels, channels, 1, rngs=rngs), mask])

    def __call__(self, maps: Sequence[Array], rngs: nnx.Rngs | None = None) -> Array:
        x = maps[-1]
        height, width = x.shape[1:3]
        # As in the reference: only if both are odd are corners aligned.
        align_corners = height % SHRINK > 0 and width % SHRINK > 0
        size = tuple((s + align_corners) // SHRINK for s in (height, width))
        collect, distribute = (
            resize_bilinear(reduce(x), size, align_corners)
            for reduce in (self.reduce, self.reduce_p)
        )
        weights = jax.nn.softmax(offset_logits(self.attention, collect), axis=2).astype(x.dtype)
        collected = jnp.einsum("bpq,bqc->bpc", weights, tokens(collect))
        weights = jax.nn.softmax(offset_logits(self.attention_p, distribute), axis=1)
        weights = weights.astype(x.dtype)
        distributed = jnp.einsum("bpq,bpc->bqc", weights, tokens(distribute))
        both = jnp.concatenate([collected, distributed], axis=-1).reshape(x.shape[0], *size, -1)
        # The reference's 1×1 projection has padding 1: the map grows by a border of zeros.
        context = self.proj(jnp.pad(both, ((0, 0), (1, 1), (1, 1), (0, 0))))
        x = self.bottleneck([x, context], (height, width), align_corners)
        return self.conv_seg(self.dropout(x, rngs=rngs))
