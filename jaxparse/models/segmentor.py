"""Backbone, decode head and auxiliary head as one network."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

# Of ImageNet, RGB in 0..255.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
AUXILIARY_STAGE = 2  # the third map: stride 16 of Swin, 8 of ResNet


def normalise(image: Array) -> Array:
    """uint8 RGB [B, H, W, 3] -> float32 of zero mean and unit variance over ImageNet."""
    return ((image - MEAN) / STD).astype(jnp.float32)


class Logits(NamedTuple):
    """Logits [B, h, w, num_classes] of the decode head and of the auxiliary head."""

    decode: Array
    auxiliary: Array


class Segmentor(nnx.Module):
    """Normalised image [B, H, W, 3], any H and W, -> logits; mmsegmentation's EncoderDecoder.

    The auxiliary head only helps training; when its logits are not used, jit leaves it out.
    """

    def __init__(
        self, backbone: nnx.Module, decode_head: nnx.Module, auxiliary_head: nnx.Module
    ) -> None:
        self.backbone = backbone
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head

    def __call__(self, image: Array, rngs: nnx.Rngs | None = None) -> Logits:
        maps = self.backbone(image, rngs)
        return Logits(
            self.decode_head(maps, rngs), self.auxiliary_head(maps[AUXILIARY_STAGE], rngs)
        )
