"""SegFace head (Narayan et al. 2025, arXiv:2412.08647): a learnt token for each class.

The fusion of the four maps is SegFormer's without norm and activation. Tokens and pixels then
attend to each other as in the mask decoder of Segment Anything (Kirillov et al. 2023,
arXiv:2304.02643, appendix A), and each token gives the vector by which pixels are multiplied.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.models.layers import Conv, LayerNorm, Linear, TransposedConv
from jaxparse.models.ops.products import attention, gelu, relu, widen
from jaxparse.models.segformer import fused_products

NUM_HEADS = 8
NUM_LAYERS = 2
MLP_RATIO = 8
UPSCALING_EPSILON = 1e-6  # of the layer norm between the two transposed convolutions


def position_code(matrix: Array, size: tuple[int, int]) -> Array:
    """Random Fourier features (Tancik et al. 2020, arXiv:2006.10739) of pixels, [H, W, 2F].

    `matrix` [2, F] holds F random frequencies along x and y. The centres of pixels lie within
    -1..1; the sines come first, then the cosines.
    """
    y, x = (2 * (np.arange(length) + 0.5) / length - 1 for length in size)
    centres = np.stack(np.meshgrid(x, y), axis=-1)  # H W (x, y)
    angles = jnp.asarray(2 * np.pi * centres, matrix.dtype) @ matrix
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Attention(nnx.Module):
    """Attention of `queries` [B, N, C] to [B, M, C], of `inner` channels in all heads together."""

    def __init__(self, dim: int, inner: int, *, rngs: nnx.Rngs) -> None:
        self.q_proj = Linear(dim, inner, rngs=rngs)
        self.k_proj = Linear(dim, inner, rngs=rngs)
        self.v_proj = Linear(dim, inner, rngs=rngs)
        self.out_proj = Linear(inner, dim, rngs=rngs)

    def __call__(self, queries: Array, keys: Array, values: Array) -> Array:
        q, k, v = (
            project(x).reshape(*x.shape[:2], NUM_HEADS, -1)  # B N heads C/heads
            for project, x in (
                (self.q_proj, queries),
                (self.k_proj, keys),
                (self.v_proj, values),
            )
        )
        return self.out_proj(attention(q, k, v).reshape(*queries.shape[:2], -1))


class Mlp(nnx.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.lin1 = Linear(dim, MLP_RATIO * dim, rngs=rngs)
        self.lin2 = Linear(MLP_RATIO * dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.lin2(relu(self.lin1(x)))


class TwoWayLayer(nnx.Module):
    """Tokens attend to each other, then to the pixels; an MLP; pixels attend to the tokens.

    Queries and keys, not values, have the codes added: of a token what it was at the start, of a
    pixel its position. The first layer's attention among tokens has neither codes nor residual.
    """

    def __init__(self, dim: int, *, first: bool, rngs: nnx.Rngs) -> None:
        self.first = first
        self.self_attn = Attention(dim, dim, rngs=rngs)
        self.norm1 = LayerNorm(dim, rngs=rngs)
        self.cross_attn_token_to_image = Attention(dim, dim // 2, rngs=rngs)
        self.norm2 = LayerNorm(dim, rngs=rngs)
        self.mlp = Mlp(dim, rngs=rngs)
        self.norm3 = LayerNorm(dim, rngs=rngs)
        self.cross_attn_image_to_token = Attention(dim, dim // 2, rngs=rngs)
        self.norm4 = LayerNorm(dim, rngs=rngs)

    def __call__(
        self, tokens: Array, pixels: Array, token_code: Array, pixel_code: Array
    ) -> tuple[Array, Array]:
        """[B, N, C] and [B, M, C] -> the same."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            coded = tokens + token_code
            tokens += self.self_attn(coded, coded, tokens)
        tokens = self.norm1(tokens)
        coded, coded_pixels = tokens + token_code, pixels + pixel_code
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(coded, coded_pixels, pixels))
        tokens = self.norm3(tokens + self.mlp(tokens))
        coded = tokens + token_code
        pixels = self.norm4(pixels + self.cross_attn_image_to_token(coded_pixels, coded, tokens))
        return tokens, pixels


class TwoWayTransformer(nnx.Module):
    """The layers, and a last attention of the tokens to the pixels."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(
            TwoWayLayer(dim, first=not layer, rngs=rngs) for layer in range(NUM_LAYERS)
        )
        self.final_attn_token_to_image = Attention(dim, dim // 2, rngs=rngs)
        self.norm_final_attn = LayerNorm(dim, rngs=rngs)

    def __call__(self, tokens: Array, pixels: Array, pixel_code: Array) -> tuple[Array, Array]:
        """[B, N, C] and [B, M, C] -> the same."""
        token_code = tokens
        for layer in self.layers:
            tokens, pixels = layer(tokens, pixels, token_code, pixel_code)
        final = self.final_attn_token_to_image(tokens + token_code, pixels + pixel_code, pixels)
        return self.norm_final_attn(tokens + final), pixels


class Upscaling(nnx.Module):
    """Two transposed convolutions, each with a GELU: [B, H, W, C] -> [B, 4H, 4W, C/8]."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = TransposedConv(dim, dim // 4, rngs=rngs)
        self.norm = LayerNorm(dim // 4, epsilon=UPSCALING_EPSILON, rngs=rngs)
        self.conv2 = TransposedConv(dim // 4, dim // 8, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return gelu(self.conv2(gelu(self.norm(self.conv1(x)))))


class SegFaceHead(nnx.Module):
    """Takes maps [B, H_i, W_i, C_i], finest first: logits [B, 4 H_0, 4 W_0, num_classes].

    `channels` is a multiple of 16. It has no dropout.
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
        if channels % (2 * NUM_HEADS):
            raise ValueError(
                f"head_channels is {channels}, and the head segface needs a multiple of "
                f"{2 * NUM_HEADS} for its {NUM_HEADS} attention heads; give 256, as in the paper"
            )
        self.linear_c = nnx.List(Linear(c, channels, rngs=rngs) for c in in_channels)
        self.linear_fuse = Conv(len(in_channels) * channels, channels, 1, rngs=rngs)
        # A constant of the network, not learnt: kept where the running statistics are.
        frequencies = jax.random.normal(rngs.params(), (2, channels // 2))
        self.position_matrix = nnx.BatchStat(frequencies)
        self.class_tokens = nnx.Param(jax.random.normal(rngs.params(), (num_classes, channels)))
        self.transformer = TwoWayTransformer(channels, rngs=rngs)
        self.upscaling = Upscaling(channels, rngs=rngs)
        widths = (channels, channels, channels, channels // 8)
        self.hypernetwork = nnx.List(
            Linear(*pair, rngs=rngs) for pair in zip(widths[:-1], widths[1:], strict=True)
        )

    def __call__(self, maps: Sequence[Array], rngs: nnx.Rngs | None = None) -> Array:
        del rngs
        tokens, pixels = self.decode(fused_products(maps, self.linear_c, self.linear_fuse))
        pixels = widen(self.upscaling(pixels))  # B 4H 4W C/8
        return jnp.einsum("bhwc,bnc->bhwn", pixels, widen(self.class_vectors(tokens)))

    def decode(self, x: Array) -> tuple[Array, Array]:
        """[B, H, W, C] -> tokens [B, num_classes, C], pixels [B, H, W, C]."""
        batch, height, width, channels = x.shape
        tokens = self.class_tokens[...].astype(x.dtype)
        code = position_code(self.position_matrix[...], (height, width)).astype(x.dtype)
        tokens, pixels = self.transformer(
            jnp.broadcast_to(tokens, (batch, *tokens.shape)),
            x.reshape(batch, -1, channels),
            code.reshape(-1, channels),
        )
        return tokens, pixels.reshape(x.shape)

    def class_vectors(self, tokens: Array) -> Array:
        """[B, num_classes, C] -> [B, num_classes, C/8]: an MLP of three layers."""
        *hidden, last = self.hypernetwork
        for linear in hidden:
            tokens = relu(linear(tokens))
        return last(tokens)
