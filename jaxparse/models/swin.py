"""Swin transformer backbone (Liu et al. 2021, arXiv:2103.14030), as mmsegmentation runs it.

Parameter names and the channel order of patch merging are timm's; the layer norms of the four
outputs (norm0..norm3) are mmsegmentation's, as are the padding of any map to whole windows and the
shifted-window mask built on the padded map. torchvision's Swin, a size of its own, does not shift
windows along an axis that a single one covers, and here has no norms of outputs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.models.layers import DropPath, LayerNorm, Linear, TransformerBlock, torch_conv_init
from jaxparse.models.ops.products import gelu, matmul, widen

WINDOW_SIZE = 7
PATCH_SIZE = 4
MLP_RATIO = 4
MASKED = -100.0  # added to the logits of token pairs from different regions


def pad_to_multiple(x: Array, multiple: int) -> Array:
    """[B, H, W, C] padded at the bottom and the right with zeros to whole multiples."""
    height, width = x.shape[1:3]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return x
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))


def window_partition(x: Array) -> Array:
    """[B, H, W, ...] -> [B, K, N, ...]: K windows of N = 49 tokens."""
    batch, height, width, *rest = x.shape
    rows, columns = height // WINDOW_SIZE, width // WINDOW_SIZE
    x = x.reshape(batch, rows, WINDOW_SIZE, columns, WINDOW_SIZE, *rest).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, WINDOW_SIZE**2, *rest)


def window_reverse(windows: Array, size: tuple[int, int]) -> Array:
    """[B, K, N, C] -> [B, *size, C]; undoes window_partition."""
    batch, _, _, channels = windows.shape
    rows, columns = size[0] // WINDOW_SIZE, size[1] // WINDOW_SIZE
    x = windows.reshape(batch, rows, columns, WINDOW_SIZE, WINDOW_SIZE, channels).swapaxes(2, 3)
    return x.reshape(batch, *size, channels)


def shifted_regions(size: tuple[int, int], shifts: tuple[int, int]) -> np.ndarray:
    """[K, N] region of each token after the cyclic shift; only equal ones attend to each other."""

    def bands(length: int, shift: int) -> np.ndarray:
        position = np.arange(length)
        return (position >= length - WINDOW_SIZE).astype(int) + (position >= length - shift)

    regions = 3 * bands(size[0], shifts[0])[:, None] + bands(size[1], shifts[1])
    rows, columns = size[0] // WINDOW_SIZE, size[1] // WINDOW_SIZE
    regions = regions.reshape(rows, WINDOW_SIZE, columns, WINDOW_SIZE).swapaxes(1, 2)
    return regions.reshape(rows * columns, WINDOW_SIZE**2)


def relative_position_index() -> np.ndarray:
    """[N, N] row of the bias table for query i and key j: 13 (Δrow + 6) + Δcolumn + 6."""
    tokens = np.indices((WINDOW_SIZE, WINDOW_SIZE)).reshape(2, -1)
    delta = tokens[:, :, None] - tokens[:, None, :] + WINDOW_SIZE - 1
    return delta[0] * (2 * WINDOW_SIZE - 1) + delta[1]


class WindowAttention(nnx.Module):
    """Attention within windows of 7×7 tokens, cyclically shifted by `shift` tokens.

    With `shift_single` also along an axis that one window covers.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        shift: int,
        *,
        rngs: nnx.Rngs,
        shift_single: bool = True,
    ) -> None:
        self.num_heads, self.shift, self.shift_single = num_heads, shift, shift_single
        table = jnp.zeros(((2 * WINDOW_SIZE - 1) ** 2, num_heads))
        self.relative_position_bias_table = nnx.Param(table)
        self.qkv = Linear(dim, 3 * dim, rngs=rngs)
        self.proj = Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        # Padding, which adds up to 72 % tokens, comes after the product: 0 · kernel = 0.
        qkv = pad_to_multiple(matmul(x, self.qkv.kernel[...].astype(x.dtype)), WINDOW_SIZE)
        qkv += self.qkv.bias[...].astype(x.dtype)
        size = qkv.shape[1:3]
        down, right = self.shifts(size)
        if down or right:
            qkv = jnp.roll(qkv, (-down, -right), (1, 2))
        qkv = qkv.reshape(batch, *size, 3, self.num_heads, channels // self.num_heads)
        qkv = window_partition(qkv)  # B K N 3 heads C/heads
        q, k, v = (qkv[:, :, :, part] for part in range(3))
        weights = jax.nn.softmax(self._logits(q, k, size), axis=-1).astype(x.dtype)
        x = jnp.einsum("bkhnm,bkmhc->bknhc", weights, v)
        x = window_reverse(x.reshape(*x.shape[:3], channels), size)
        if down or right:
            x = jnp.roll(x, (down, right), (1, 2))
        return self.proj(x[:, :height, :width])

    def shifts(self, size: tuple[int, int]) -> tuple[int, int]:
        """Tokens by which the windows of a map of `size`, in whole windows, are shifted."""
        down, right = (
            self.shift if self.shift_single or length > WINDOW_SIZE else 0 for length in size
        )
        return down, right

    def _logits(self, q: Array, k: Array, size: tuple[int, int]) -> Array:
        """[B, K, N, heads, C/heads] twice -> [B, K, heads, N, N], float32."""
        scale = q.shape[-1] ** -0.5
        logits = widen(jnp.einsum("bknhc,bkmhc->bkhnm", q * scale, k))
        bias = self.relative_position_bias_table[...][relative_position_index()]  # N N heads
        logits += bias.transpose(2, 0, 1)
        if any(shifts := self.shifts(size)):
            regions = shifted_regions(size, shifts)
            apart = regions[:, None, :, None] != regions[:, None, None, :]  # K 1 N N
            logits += jnp.where(apart, MASKED, 0).astype(logits.dtype)
        return logits


class Mlp(nnx.Module):
    """Two linear layers with an activation between them, by default the exact GELU."""

    def __init__(
        self, dim: int, *, rngs: nnx.Rngs, activation: Callable[[Array], Array] = gelu
    ) -> None:
        self.activation = activation
        self.fc1 = Linear(dim, MLP_RATIO * dim, rngs=rngs)
        self.fc2 = Linear(MLP_RATIO * dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc2(self.activation(self.fc1(x)))


class SwinBlock(TransformerBlock):
    """Window attention and MLP."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        shift: int,
        drop_path_rate: float,
        *,
        rngs: nnx.Rngs,
        shift_single: bool,
    ) -> None:
        self.norm1 = LayerNorm(dim, rngs=rngs)
        self.attn = WindowAttention(dim, num_heads, shift, rngs=rngs, shift_single=shift_single)
        self.norm2 = LayerNorm(dim, rngs=rngs)
        self.mlp = Mlp(dim, rngs=rngs)
        self.drop_path = DropPath(drop_path_rate)


def cast_like_first(arrays: tuple[Array, ...], **_: object) -> tuple[Array, ...]:
    """All in the type of the first, where Flax would choose the widest."""
    return tuple(array.astype(arrays[0].dtype) for array in arrays)


class PatchEmbed(nnx.Module):
    """4×4 patches to tokens: one matrix product, then a layer norm."""

    def __init__(self, embed_dim: int, *, rngs: nnx.Rngs) -> None:
        self.proj = nnx.Conv(
            3,
            embed_dim,
            (PATCH_SIZE, PATCH_SIZE),
            PATCH_SIZE,
            padding="VALID",
            kernel_init=torch_conv_init,
            promote_dtype=cast_like_first,
            rngs=rngs,
        )
        self.norm = LayerNorm(embed_dim, rngs=rngs)

    def __call__(self, image: Array) -> Array:
        return self.norm(self.proj(pad_to_multiple(image, PATCH_SIZE)))


class PatchMerging(nnx.Module):
    """2×2 neighbours to one token of twice the channels.

    The neighbours are concatenated column first, (0,0) (1,0) (0,1) (1,1), as in timm and in
    Microsoft's code; mmsegmentation unfolds them channel by channel, so its weights are permuted.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.norm = LayerNorm(4 * dim, rngs=rngs)
        self.reduction = Linear(4 * dim, 2 * dim, rngs=rngs, use_bias=False)

    def __call__(self, x: Array) -> Array:
        x = pad_to_multiple(x, 2)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        x = x.transpose(0, 1, 3, 4, 2, 5)  # B H/2 W/2 column row C
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))


class SwinStage(nnx.Module):
    """Merging (but in the first stage) and blocks, every second one shifted by half a window."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_path_rates: list[float],
        merge: bool,
        rngs: nnx.Rngs,
        shift_single: bool,
    ) -> None:
        if merge:
            self.downsample = PatchMerging(dim // 2, rngs=rngs)
        shifts = ((i % 2) * (WINDOW_SIZE // 2) for i in range(len(drop_path_rates)))
        self.blocks = nnx.List(
            SwinBlock(dim, num_heads, shift, rate, rngs=rngs, shift_single=shift_single)
            for shift, rate in zip(shifts, drop_path_rates, strict=True)
        )

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        for block in self.blocks:
            x = block(x, rngs)
        return x


class SwinSize(NamedTuple):
    """Width of the first stage, blocks and attention heads of each stage."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    torchvision: bool = False  # its rule for shifts, and no norms of outputs


class Swin(nnx.Module):
    """Backbone: normalised image [B, H, W, 3] -> 4 maps at strides 4, 8, 16, 32."""

    def __init__(self, size: SwinSize, drop_path_rate: float, *, rngs: nnx.Rngs) -> None:
        self.channels = tuple(size.embed_dim * 2**stage for stage in range(len(size.depths)))
        self.patch_embed = PatchEmbed(size.embed_dim, rngs=rngs)
        rates = iter(np.linspace(0, drop_path_rate, sum(size.depths)).tolist())
        self.layers = nnx.List(
            SwinStage(
                dim,
                heads,
                [next(rates) for _ in range(depth)],
                stage > 0,
                rngs,
                shift_single=not size.torchvision,
            )
            for stage, (dim, heads, depth) in enumerate(
                zip(self.channels, size.num_heads, size.depths, strict=True)
            )
        )
        if not size.torchvision:
            for stage, dim in enumerate(self.channels):
                setattr(self, f"norm{stage}", LayerNorm(dim, rngs=rngs))

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> list[Array]:
        x = self.patch_embed(image)
        outputs = []
        for stage, layer in enumerate(self.layers):
            x = layer(x, rngs)
            outputs.append(getattr(self, f"norm{stage}", lambda x: x)(x))
        return outputs


SIZES = {
    "swin_nano": SwinSize(32, (2, 2, 2, 2), (1, 2, 4, 8)),
    "swin_t": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_b_torchvision": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32), torchvision=True),
}
