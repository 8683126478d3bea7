"""Layers that backbones and heads share, on maps [B, H, W, C]; mmcv's and torch's conventions.

A layer computes in the type of the map it is given, and gives a map of that type: kernels and
biases, which are float32, are cast where they are used, so that their gradients are float32 again.
Norms compute in float32 inside, whatever the map; logits are float32.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.models.ops.convolution import depthwise_conv, plain_conv
from jaxparse.models.ops.products import matmul, relu, widen
from jaxparse.models.ops.resize import conv3x3_of_resized
from jaxparse.models.ops.winograd import conv3x3

# Of torch: the share of the old running statistics is 1 - 0.1.
BATCH_NORM_MOMENTUM = 0.9
NORM_EPSILON = 1e-5

# Initialisation as in mmsegmentation: mmcv's rule in ConvModule, torch's default in other
# convolutions, 0.02 in linear layers.
kaiming_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
torch_conv_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
linear_init = nnx.initializers.normal(0.02)


class Linear(nnx.Module):
    """Matrix product and bias, kernel [in, out]."""

    def __init__(
        self, in_features: int, features: int, *, rngs: nnx.Rngs, use_bias: bool = True
    ) -> None:
        self.kernel = nnx.Param(linear_init(rngs.params(), (in_features, features)))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array) -> Array:
        x = matmul(x, self.kernel[...].astype(x.dtype))
        return x + self.bias[...].astype(x.dtype) if hasattr(self, "bias") else x


class Conv(nnx.Module):
    """Convolution size×size, odd, with padding that keeps the size at stride 1.

    `same` is TensorFlow's padding, which differs from torch's at stride 2.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        size: int,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = False,
        same: bool = False,
        kernel_init: nnx.initializers.Initializer = kaiming_init,
    ) -> None:
        shape = (size, size, in_channels, channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(channels))
        self.stride, self.dilation, self.same = stride, dilation, same

    def __call__(self, x: Array) -> Array:
        x = self._convolve(x)
        return x + self.bias[...].astype(x.dtype) if hasattr(self, "bias") else x

    def _convolve(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(x.dtype)
        if kernel.shape[0] == 1:
            return matmul(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        if self.stride == 1:
            return conv3x3(x, kernel, self.dilation)
        return plain_conv(x, kernel, self.stride, same=self.same)


class DepthwiseConv(nnx.Module):
    """Convolution size×size, odd, of each channel by its own kernel; `same` as in `Conv`."""

    def __init__(
        self,
        channels: int,
        size: int = 3,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = False,
        same: bool = False,
        kernel_init: nnx.initializers.Initializer = kaiming_init,
    ) -> None:
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, 1, channels)))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(channels))
        self.stride, self.dilation, self.same = stride, dilation, same

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(x.dtype)
        x = depthwise_conv(x, kernel, self.stride, self.dilation, self.same)
        return x + self.bias[...].astype(x.dtype) if hasattr(self, "bias") else x


class TransposedConv(nnx.Module):
    """Transposed convolution 2×2 with stride 2: twice the size, [B, 2H, 2W, channels].

    Kernel [2, 2, out, in]: that of the convolution whose transpose it is.
    """

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(torch_conv_init(rngs.params(), (2, 2, channels, in_channels)))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        batch, height, width, in_channels = x.shape
        kernel = self.kernel[...].astype(x.dtype).reshape(-1, in_channels)
        x = matmul(x, kernel.T).reshape(batch, height, width, 2, 2, -1)
        x = x.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, -1)
        return x + self.bias[...].astype(x.dtype)


class ResizeConcatConv(nnx.Module):
    """3×3 convolution of maps that are resized bilinearly to one size and concatenated.

    The sum of nine shifted 1×1 convolutions, and a 1×1 convolution commutes with resizing: coarse
    maps meet the nine taps at their own resolution, and resizing, shift, zero padding and sum
    become two small matrices. UPerNet's fusion of four maps takes 114 instead of 309 GFLOP at
    512×512.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, rngs: nnx.Rngs) -> None:
        self.splits = tuple(int(end) for end in np.cumsum(in_channels)[:-1])
        shape = (3, 3, sum(in_channels), channels)
        self.kernel = nnx.Param(kaiming_init(rngs.params(), shape))

    def __call__(
        self, maps: Sequence[Array], size: tuple[int, int], align_corners: bool = False
    ) -> Array:
        kernels = jnp.split(self.kernel[...].astype(maps[0].dtype), self.splits, axis=2)
        sized = [x.shape[1:3] == size for x in maps]
        full, its_kernel = (
            jnp.concatenate([part for part, fits in zip(parts, sized, strict=True) if fits], axis)
            for parts, axis in ((maps, 3), (kernels, 2))
        )
        out = conv3x3(full, its_kernel)
        for x, kernel, fits in zip(maps, kernels, sized, strict=True):
            if not fits:
                out += conv3x3_of_resized(x, kernel, size, align_corners)
        return out


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise_batch(
    x: Array, scale: Array, bias: Array, epsilon: float = NORM_EPSILON
) -> tuple[Array, Array, Array]:
    """[B, H, W, C] normalised over B, H, W, and the mean and the biased variance [C], float32.

    The gradient treats mean and variance as results for the running statistics: none flows back
    from them. Derived by hand (Ioffe & Szegedy 2015, section 3) it takes two sums and one pass.
    """
    return _normalise_batch_forward(x, scale, bias, epsilon)[0]


def _normalise_batch_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    mean = widen(x).mean((0, 1, 2))
    var = jnp.square(x - mean).mean((0, 1, 2))
    inverse = jax.lax.rsqrt(var + epsilon)
    out = (x - mean) * (inverse * scale) + bias
    return (out.astype(x.dtype), mean, var), (x, mean, inverse, scale)


def _normalise_batch_backward(
    epsilon: float, saved: tuple[Array, ...], grads: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    (x, mean, inverse, scale), grad = saved, widen(grads[0])
    count = x.size // x.shape[-1]
    # Not x - mean: the forward pass computes that too, and XLA would keep the map until here.
    below = mean - x
    bias_grad = grad.sum((0, 1, 2))
    scale_grad = -(grad * below).sum((0, 1, 2)) * inverse
    slope = inverse * scale_grad / count
    x_grad = (grad - bias_grad / count + below * slope) * (inverse * scale)
    return x_grad.astype(x.dtype), scale_grad, bias_grad


normalise_batch.defvjp(_normalise_batch_forward, _normalise_batch_backward)


class BatchNorm(nnx.Module):
    """Batch norm over B, H, W with torch's running statistics.

    torch keeps the unbiased variance (n - 1) and normalises with the biased one; Flax keeps the
    biased one.
    """

    def __init__(self, channels: int, scale: float = 1, epsilon: float = NORM_EPSILON) -> None:
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.full(channels, scale, float))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.use_running_average = True

    def set_view(self, use_running_average: bool) -> None:
        """Called by `nnx.view`."""
        self.use_running_average = use_running_average

    def __call__(self, x: Array) -> Array:
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            scale *= jax.lax.rsqrt(self.var[...] + self.epsilon)
            return ((x - self.mean[...]) * scale + bias).astype(x.dtype)
        out, mean, var = normalise_batch(x, scale, bias, self.epsilon)
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        for stat, new in ((self.mean, mean), (self.var, unbiased)):
            stat[...] = BATCH_NORM_MOMENTUM * stat[...] + (1 - BATCH_NORM_MOMENTUM) * new
        return out


class Block(nnx.Module):
    """A block that can be rematerialised: its backward pass recomputes `forward`.

    Running statistics and counters of rngs change once, as without recomputing.
    """

    remat = False

    def set_view(self, remat: bool) -> None:
        """Called by `nnx.view`."""
        self.remat = remat

    def __call__(self, *args: Any) -> Array:  # noqa: ANN401
        forward = type(self).forward
        return nnx.remat(forward)(self, *args) if self.remat else forward(self, *args)


class TransformerBlock(Block):
    """Attention and MLP, each behind a layer norm and around a residual.

    Which ones, its subclasses say: they set `norm1`, `attn`, `norm2`, `mlp` and `drop_path`.
    """

    def forward(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        x = x + self.drop_path(self.attn(self.norm1(x)), rngs)
        return x + self.drop_path(self.mlp(self.norm2(x)), rngs)


class ConvNormAct(nnx.Module):
    """Convolution, batch norm, ReLU; mmcv's ConvModule, whose names it keeps."""

    def __init__(
        self, in_channels: int, channels: int, size: int, *, rngs: nnx.Rngs, stride: int = 1
    ) -> None:
        self.conv = Conv(in_channels, channels, size, rngs=rngs, stride=stride)
        self.bn = BatchNorm(channels)

    def __call__(self, x: Array) -> Array:
        return relu(self.bn(self.conv(x)))


class FusionNormAct(nnx.Module):
    """`ConvNormAct` over the maps that `ResizeConcatConv` resizes and concatenates."""

    def __init__(self, in_channels: Sequence[int], channels: int, *, rngs: nnx.Rngs) -> None:
        self.conv = ResizeConcatConv(in_channels, channels, rngs=rngs)
        self.bn = BatchNorm(channels)

    def __call__(
        self, maps: Sequence[Array], size: tuple[int, int], align_corners: bool = False
    ) -> Array:
        return relu(self.bn(self.conv(maps, size, align_corners)))


class DepthwiseNormAct(nnx.Module):
    """Depthwise convolution, batch norm, ReLU."""

    def __init__(self, channels: int, dilation: int, *, rngs: nnx.Rngs) -> None:
        self.conv = DepthwiseConv(channels, rngs=rngs, dilation=dilation)
        self.bn = BatchNorm(channels)

    def __call__(self, x: Array) -> Array:
        return relu(self.bn(self.conv(x)))


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the channels; computes in float32, whatever the map."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, epsilon: float = NORM_EPSILON) -> None:
        super().__init__(channels, epsilon=epsilon, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return super().__call__(x).astype(x.dtype)


class DropPath(nnx.Module):
    """Drops a residual branch for whole samples (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.deterministic = True

    def set_view(self, deterministic: bool) -> None:
        """Called by `nnx.view`."""
        self.deterministic = deterministic

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        if self.deterministic or self.rate == 0:
            return x
        shape = (x.shape[0], *[1] * (x.ndim - 1))
        keep = jax.random.bernoulli(rngs.dropout(), 1 - self.rate, shape)
        return x * (keep / (1 - self.rate)).astype(x.dtype)


class Classifier(nnx.Module):
    """1×1 convolution in float32, with bias unless told otherwise; mmseg's `conv_seg`."""

    def __init__(
        self, channels: int, num_classes: int, *, rngs: nnx.Rngs, use_bias: bool = True
    ) -> None:
        init = nnx.initializers.normal(0.01)
        self.kernel = nnx.Param(init(rngs.params(), (1, 1, channels, num_classes)))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(num_classes))

    def __call__(self, x: Array) -> Array:
        x = matmul(widen(x), self.kernel[0, 0])
        return x + self.bias[...] if hasattr(self, "bias") else x


def channel_dropout(rate: float) -> nnx.Dropout:
    """Dropout of whole maps; torch's Dropout2d."""
    return nnx.Dropout(rate, broadcast_dims=(1, 2), deterministic=True)
