"""UPerNet head (Xiao et al. 2018, arXiv:1807.10221), as mmsegmentation's UPerHead."""

from collections.abc import Sequence

from flax import nnx
from jax import Array

from jaxparse.models.layers import Classifier, ConvNormAct, FusionNormAct, channel_dropout
from jaxparse.models.ops.resize import adaptive_average_pool, resize_bilinear

POOL_SCALES = (1, 2, 3, 6)


class UPerHead(nnx.Module):
    """Pyramid pooling of the coarsest map, a top-down path and a fusion of all: logits at stride 4.

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
        *finer, coarsest = in_channels
        self.psp_modules = nnx.List(
            ConvNormAct(coarsest, channels, 1, rngs=rngs) for _ in POOL_SCALES
        )
        pyramid = [coarsest] + [channels] * len(POOL_SCALES)
        self.bottleneck = FusionNormAct(pyramid, channels, rngs=rngs)
        self.lateral_convs = nnx.List(ConvNormAct(c, channels, 1, rngs=rngs) for c in finer)
        self.fpn_convs = nnx.List(ConvNormAct(channels, channels, 3, rngs=rngs) for _ in finer)
        self.fpn_bottleneck = FusionNormAct([channels] * len(in_channels), channels, rngs=rngs)
        self.dropout = channel_dropout(dropout_rate)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs)

    def __call__(self, maps: Sequence[Array], rngs: nnx.Rngs | None = None) -> Array:
        *finer, coarsest = maps
        pooled = [
            module(adaptive_average_pool(coarsest, scale))
            for module, scale in zip(self.psp_modules, POOL_SCALES, strict=True)
        ]
        top = self.bottleneck([coarsest, *pooled], coarsest.shape[1:3])
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, finer, strict=True)] + [top]
        for i in reversed(range(len(finer))):
            laterals[i] += resize_bilinear(laterals[i + 1], laterals[i].shape[1:3])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        fused = self.fpn_bottleneck([*outputs, top], outputs[0].shape[1:3])
        return self.conv_seg(self.dropout(fused, rngs=rngs))
