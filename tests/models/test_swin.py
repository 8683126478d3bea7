import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxparse.models import swin


def test_windows_are_cut_row_by_row_and_put_back() -> None:
    x = np.arange(2 * 14 * 21).reshape(2, 14, 21, 1)
    windows = swin.window_partition(jnp.asarray(x))
    assert windows.shape == (2, 6, 49, 1)
    np.testing.assert_array_equal(windows[1, 4].ravel(), x[1, 7:, 7:14].ravel())
    np.testing.assert_array_equal(swin.window_reverse(windows, (14, 21)), x)


def test_shifted_regions_by_hand() -> None:
    # 14 = 7 untouched, 4 of the last window, 3 that came from the front.
    near, far = [0] * 7, [1] * 4 + [2] * 3
    regions = swin.shifted_regions((14, 14), (3, 3)).reshape(4, 7, 7)
    for window, (rows, columns) in enumerate([(near, near), (near, far), (far, near), (far, far)]):
        expected = [[3 * row + column for column in columns] for row in rows]
        np.testing.assert_array_equal(regions[window], expected)


def test_a_single_shifted_window_has_four_regions() -> None:
    regions = swin.shifted_regions((7, 7), (3, 3)).reshape(7, 7)
    corners = regions[[0, 0, 6, 6], [0, 6, 0, 6]]
    assert len(set(corners)) == 4
    np.testing.assert_array_equal(regions[:4, :4], corners[0])
    np.testing.assert_array_equal(regions[4:, 4:], corners[3])


def test_relative_position_index_by_hand() -> None:
    index = swin.relative_position_index()
    assert index.shape == (49, 49)
    np.testing.assert_array_equal(np.diag(index), 6 * 13 + 6)
    assert index[0, 48] == 0  # 6 up, 6 left
    assert index[48, 0] == 168
    assert index[0, 6] == 6 * 13
    assert index[0, 42] == 6
    assert index[0, 1] == 83
    assert index[0, 7] == 71


def test_patch_merging_takes_columns_first() -> None:
    merging = swin.PatchMerging(2, rngs=nnx.Rngs(0))
    merging.norm = merging.reduction = lambda x: x
    x = np.arange(2 * 3 * 2).reshape(
        1, 2, 3, 2
    )  # channels of pixel (row, column): 6 row + 2 column
    out = merging(jnp.asarray(x))
    assert out.shape == (1, 1, 2, 8)
    np.testing.assert_array_equal(out[0, 0, 0], [0, 1, 6, 7, 2, 3, 8, 9])
    np.testing.assert_array_equal(out[0, 0, 1], [4, 5, 10, 11, 0, 0, 0, 0])  # padded by a column


def test_padding_after_qkv_is_padding_before_it() -> None:
    for shift in (0, 3):
        attention = swin.WindowAttention(6, 2, shift, rngs=nnx.Rngs(0))
        attention.qkv.bias[...] = jnp.linspace(-2, 2, 18)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 5, 6)), jnp.float32)
        padded = jnp.pad(x, ((0, 0), (0, 5), (0, 2), (0, 0)))
        np.testing.assert_allclose(attention(x), attention(padded)[:, :9, :5], atol=1e-5)
