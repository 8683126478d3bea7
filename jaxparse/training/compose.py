"""Composed training pictures: accessories of other faces, and people before other backgrounds.

Copy-paste is Ghiasi et al. 2021 (arXiv:2012.07177), in place, since the faces of a data set are
aligned: of the next picture in the batch. Backgrounds are smooth noise of several scales, half of
them on the blurred colours of that picture.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse.config import Config
from jaxparse.devices import Batch
from jaxparse.models.ops.resize import apply_separable, pooling_matrix, resize_matrix

ACCESSORIES = ("eye_glasses", "hat", "earring", "necklace")
GRIDS = (2, 4, 8, 16, 32, 64)  # cells on a side of each scale of the noise
BLURRED = 6  # cells on a side of the blurred picture
SOFTNESS = 3  # pixels on a side of the mean that softens the edge of a person


def paste_accessories(batch: Batch, config: Config) -> Batch:
    """{image uint8 [B, H, W, 3], label uint8 [B, H, W], key [B]} with accessories pasted in.

    Those of the next picture, into a share `paste_probability` of the pictures.
    """
    names = config.classes.names
    worn = jnp.array([names.index(name) for name in ACCESSORIES if name in names])
    image, label = (jnp.roll(batch[name], -1, 0) for name in ("image", "label"))
    keys = jax.vmap(jax.random.fold_in, (0, None))(batch["key"], 0)
    chosen = jax.vmap(jax.random.uniform)(keys) < config.paste_probability
    pasted = chosen[:, None, None] & jnp.isin(label, worn)
    return batch | {
        "image": jnp.where(pasted[..., None], image, batch["image"]),
        "label": jnp.where(pasted, label, batch["label"]),
    }


def random_background(key: Array, other: Array) -> Array:
    """A background float32 [H, W, 3] of 0..255; `other` [H, W, 3] gives the colours of half."""
    size = other.shape[:2]
    noise_key, amplitude_key, base_key, kind_key = jax.random.split(key, 4)

    def enlarged(cells: Array) -> Array:
        rows, columns = (resize_matrix(len(cells), length) for length in size)
        return apply_separable(cells[None], rows, columns)[0]

    amplitudes = 60 * jax.random.uniform(amplitude_key, (len(GRIDS), 2)) ** 3
    noise = 0
    for grid, (grey, colour) in zip(GRIDS, amplitudes, strict=True):
        key, noise_key = jax.random.split(noise_key)
        cells = jax.random.uniform(key, (grid, grid, 4), minval=-1)
        noise += enlarged(grey * cells[..., :1] + colour * cells[..., 1:])
    pools = (pooling_matrix(length, BLURRED) for length in size)
    blurred = enlarged(apply_separable(other.astype(jnp.float32)[None], *pools)[0])
    plain = jax.random.uniform(base_key, (3,), maxval=255)
    base = jnp.where(jax.random.bernoulli(kind_key), blurred, plain)
    return jnp.clip(base + noise, 0, 255)


def soften(person: Array) -> Array:
    """bool [H, W] -> float32 0..1: the mean of the pixels around each."""
    height, width = person.shape
    taps = [
        np.clip(np.arange(n)[:, None] + np.arange(SOFTNESS) - SOFTNESS // 2, 0, n - 1)
        for n in (height, width)
    ]
    x = person.astype(jnp.float32)
    x = sum(x[rows] for rows in taps[0].T) / SOFTNESS
    return sum(x[:, columns] for columns in taps[1].T) / SOFTNESS
