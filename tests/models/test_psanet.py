from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from jaxparse.models import psanet
from tests.models.comparison import noise, require_same_function


def ours(x: Array, kernel: Array) -> Array:
    """`offset_logits` without its first convolution."""
    return psanet.offset_logits((lambda x: x, SimpleNamespace(kernel=kernel[None, None])), x)


def naive(x: Array, kernel: Array) -> Array:
    """The reference's way: all offsets of every position, of which those within the map count."""
    size = x.shape[1:3]
    logits = (x @ kernel).reshape(len(x), size[0] * size[1], -1)  # [B, position, offset]
    positions = list(np.ndindex(size))
    reach = psanet.MASK_SIZE // 2
    offset, within = np.zeros((2, len(positions), len(positions)), int)
    for p, (row, column) in enumerate(positions):
        for q, (to_row, to_column) in enumerate(positions):
            down, right = to_row - row, to_column - column
            within[p, q] = max(abs(down), abs(right)) <= reach
            if within[p, q]:
                offset[p, q] = (down + reach) * psanet.MASK_SIZE + right + reach
    return jnp.take_along_axis(logits, offset[None], axis=2) * within


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (5, 4)])
def test_offset_logits_are_those_of_the_whole_mask(size: tuple[int, int]) -> None:
    require_same_function(ours, naive, noise(2, *size, 3), noise(3, 97 * 97, seed=2))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(6, 7), (3, 9), (3, 3), (1, 4)])
def test_offsets_out_of_the_masks_reach_are_zero(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psanet, "MASK_SIZE", 5)
    x, kernel = noise(2, *size, 3), noise(3, 25, seed=2)
    require_same_function(ours, naive, x, kernel)
    far = np.count_nonzero(np.asarray(ours(jnp.asarray(x), jnp.asarray(kernel))) == 0)
    rows, columns = (abs(np.subtract.outer(np.arange(s), np.arange(s))) <= 2 for s in size)
    assert far == 2 * (np.kron(rows, columns) == 0).sum()


@pytest.mark.parametrize(
    "size, shrunk, aligned",
    [((6, 8), (3, 4), False), ((6, 7), (3, 3), False), ((7, 6), (3, 3), False)]
    + [((5, 7), (3, 4), True), ((1, 1), (1, 1), True)],
)
def test_corners_are_aligned_where_both_sizes_are_odd(
    size: tuple[int, int],
    shrunk: tuple[int, int],
    aligned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resized = []

    def resize(x: Array, size: tuple[int, int], align_corners: bool) -> Array:
        resized.append((size, align_corners))
        return x[:, : size[0], : size[1]]

    def bottleneck(maps: list[Array], size: tuple[int, int], align_corners: bool) -> Array:
        resized.append((size, align_corners))
        # The projection's padding: a border around the shrunk map.
        assert maps[1].shape == (2, shrunk[0] + 2, shrunk[1] + 2, 4)
        return maps[0][..., :3]

    monkeypatch.setattr(psanet, "resize_bilinear", resize)

    def run(x: Array) -> Array:
        head = psanet.PSAHead([4], 3, 19, 0.1, rngs=nnx.Rngs(0))
        head.bottleneck = bottleneck
        return head([x])

    assert jax.eval_shape(run, jnp.ones((2, *size, 4))).shape == (2, *size, 19)
    assert resized == [(shrunk, aligned)] * 2 + [(size, aligned)]


def test_logits_are_at_the_last_maps_size() -> None:
    def run(*maps: Array) -> Array:
        return psanet.PSAHead([2, 4], 3, 19, 0.1, rngs=nnx.Rngs(0))(maps)

    for size in ((4, 6), (5, 3)):
        maps = jnp.ones((1, 9, 9, 2)), jnp.ones((1, *size, 4))
        assert jax.eval_shape(run, *maps).shape == (1, *size, 19)
