"""Backbone, decode head and auxiliary head as one network, and what its input is."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.config import Config

AUXILIARY_STAGE = 2  # the third map: stride 16 of Swin, 8 of ResNet


def normalise(image: Array, config: Config) -> Array:
    """uint8 RGB [B, H, W, 3] -> float32: minus the config's image_mean, over its image_std."""
    mean, std = (np.array(x, np.float32) for x in (config.image_mean, config.image_std))
    return ((image - mean) / std).astype(jnp.float32)


class Logits(NamedTuple):
    """Logits [B, h, w, num_classes] of the decode head, and of auxiliary heads if there are any."""

    decode: Array
    auxiliary: tuple[Array, ...]


class Segmentor(nnx.Module):
    """Normalised image [B, H, W, 3], any H and W, -> logits; mmsegmentation's EncoderDecoder.

    An auxiliary head only helps training; when its logits are not used, jit leaves it out.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        decode_head: nnx.Module,
        auxiliary_head: nnx.Module | None = None,
    ) -> None:
        self.backbone = backbone
        self.decode_head = decode_head
        if auxiliary_head:
            self.auxiliary_head = auxiliary_head

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> Logits:
        maps = self.backbone(image, rngs)
        decode = self.decode_head(maps, rngs)
        if not hasattr(self, "auxiliary_head"):
            return Logits(decode, ())
        return Logits(decode, (self.auxiliary_head(maps[AUXILIARY_STAGE], rngs),))
