import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.models import swin
from tests import reference


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


def attended(x: np.ndarray, shift: int, shift_single: bool) -> np.ndarray:
    """`x` after a window attention that is the same whatever the other arguments."""

    def run(x: Array) -> Array:
        module = swin.WindowAttention(4, 2, shift, rngs=nnx.Rngs(0), shift_single=shift_single)
        module.relative_position_bias_table[...] = jnp.sin(jnp.arange(338.0)).reshape(169, 2)
        module.qkv.kernel[...] *= 50  # by 0.02, as they are, all tokens would count about the same
        return module(x)

    return np.asarray(reference.jit(run)(x))


def test_a_single_window_is_not_shifted_by_torchvision() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 4)).astype(np.float32)
    unshifted = attended(x, 0, shift_single=True)
    np.testing.assert_array_equal(attended(x, 3, shift_single=False), unshifted)
    assert abs(attended(x, 3, shift_single=True) - unshifted).max() > 0.01


def test_torchvision_shifts_along_the_other_axis() -> None:
    # Columns 3 to 9 are a window of their own, whatever lies beside them.
    x = np.random.default_rng(0).normal(size=(1, 7, 14, 4)).astype(np.float32)
    for axes in ((0, 1, 2, 3), (0, 2, 1, 3)):
        turned = x.transpose(axes)
        middle = turned[:, 3:10] if axes[1] == 2 else turned[:, :, 3:10]
        whole = attended(turned, 3, shift_single=False)
        found = whole[:, 3:10] if axes[1] == 2 else whole[:, :, 3:10]
        alone = attended(np.ascontiguousarray(middle), 0, shift_single=False)
        np.testing.assert_allclose(found, alone, atol=1e-6)


def test_maps_of_several_windows_are_shifted_alike() -> None:
    x = np.random.default_rng(0).normal(size=(1, 8, 14, 4)).astype(np.float32)
    expected = attended(x, 3, shift_single=True)
    np.testing.assert_array_equal(attended(x, 3, shift_single=False), expected)


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
