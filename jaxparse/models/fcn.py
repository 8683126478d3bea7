"""FCN head (Long et al. 2015, arXiv:1411.4038) with one 3×3 convolution: the auxiliary head."""

from flax import nnx
from jax import Array

from jaxparse.models.layers import Classifier, ConvNormAct, channel_dropout


class FCNHead(nnx.Module):
    """One map [B, H, W, C] -> logits [B, H, W, num_classes]; mmsegmentation's FCNHead."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.convs = nnx.List([ConvNormAct(in_channels, channels, 3, rngs=rngs)])
        self.dropout = channel_dropout(dropout_rate)
        self.conv_seg = Classifier(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        for conv in self.convs:
            x = conv(x)
        return self.conv_seg(self.dropout(x, rngs=rngs))
