from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxparse.models.ops import resize
from tests.models.comparison import noise, plain_conv, require_same_function

TORCH_NEEDED = "torch is not installed; pip install 'jaxparse[torch]'"


@pytest.mark.parametrize(
    "in_size, out_size, expected",
    [
        (2, 4, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]),
        (4, 2, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),  # antialiasing would use all four
        (5, 3, [[2 / 3, 1 / 3, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1 / 3, 2 / 3]]),
        (3, 3, np.eye(3)),
        (1, 3, np.ones((3, 1))),
    ],
)
def test_resize_matrix(in_size: int, out_size: int, expected: list) -> None:
    np.testing.assert_allclose(resize.resize_matrix(in_size, out_size), expected, atol=1e-15)


@pytest.mark.parametrize(
    "in_size, out_size, expected",
    [
        (2, 3, [[1, 0], [0.5, 0.5], [0, 1]]),
        (4, 2, [[1, 0, 0, 0], [0, 0, 0, 1]]),
        (4, 3, [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]),
        (3, 4, [[1, 0, 0], [1 / 3, 2 / 3, 0], [0, 2 / 3, 1 / 3], [0, 0, 1]]),
        (5, 5, np.eye(5)),
        (3, 1, [[1, 0, 0]]),
        (1, 3, np.ones((3, 1))),
    ],
)
def test_resize_matrix_with_aligned_corners(in_size: int, out_size: int, expected: list) -> None:
    matrix = resize.resize_matrix(in_size, out_size, align_corners=True)
    np.testing.assert_allclose(matrix, expected, atol=1e-15)


@pytest.mark.parametrize(
    "in_size, out_size, cells",
    [
        (2, 4, [0, 0, 1, 1]),
        (3, 5, [0, 0, 1, 1, 2]),
        (4, 7, [0, 0, 1, 1, 2, 2, 3]),
        (5, 3, [0, 1, 3]),
        (3, 3, [0, 1, 2]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_nearest_matrix(in_size: int, out_size: int, cells: list[int]) -> None:
    np.testing.assert_array_equal(resize.nearest_matrix(in_size, out_size), np.eye(in_size)[cells])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_resize_nearest_copies(dtype: jnp.dtype) -> None:
    x = jnp.asarray(noise(2, 3, 4, 5), dtype)
    rows, columns = [0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    resized = resize.resize_nearest(x, (5, 10))
    assert resized.dtype == dtype
    np.testing.assert_array_equal(resized, x[:, rows][:, :, columns])
    assert resize.resize_nearest(x, (3, 4)) is x


def test_resize_matrix_of_a_traced_size() -> None:
    traced = jax.jit(lambda size: resize.resize_matrix(13, size, rows=40))
    for size in (1, 7, 13, 40):
        expected = resize.resize_matrix(13, size)
        np.testing.assert_allclose(traced(np.float32(size))[:size], expected, atol=1e-5)


def test_pooling_matrix_overlaps_where_sizes_do_not_divide() -> None:
    ends = {
        3: [(0, 6), (5, 11), (10, 16)],
        6: [(0, 3), (2, 6), (5, 8), (8, 11), (10, 14), (13, 16)],
    }
    for bins, spans in ends.items():
        expected = np.zeros((bins, 16))
        for row, (start, end) in zip(expected, spans, strict=True):
            row[start:end] = 1 / (end - start)
        np.testing.assert_array_equal(resize.pooling_matrix(16, bins), expected)


def test_pooling_repeats_what_is_smaller_than_the_bins() -> None:
    np.testing.assert_array_equal(resize.pooling_matrix(1, 3), np.ones((3, 1)))


@pytest.mark.usefixtures("float64")
def test_resizing_is_rows_times_columns() -> None:
    x = noise(2, 5, 4, 3)
    rows, columns = resize.resize_matrix(5, 7), resize.resize_matrix(4, 3)
    expected = np.einsum("Yy,Xx,byxc->bYXc", rows, columns, x)
    resized = resize.resize_bilinear(jnp.asarray(x), (7, 3))
    class_first = resize.resize_logits(jnp.asarray(x), (7, 3))
    np.testing.assert_allclose(resized, expected, atol=1e-14)
    np.testing.assert_allclose(class_first, expected.transpose(0, 3, 1, 2), atol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(17, 9), (32, 20), (5, 3), (10, 40)])
def test_resizing_equals_torchs(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch", reason=TORCH_NEEDED)
    x = noise(2, 10, 13, 3)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2)), size, mode="bilinear", align_corners=False
    )
    resized = resize.resize_logits(jnp.asarray(x), size)
    np.testing.assert_allclose(resized, expected.numpy(), atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(16, 16), (7, 5), (2, 3)])
def test_pooling_equals_torchs(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch", reason=TORCH_NEEDED)
    x = noise(2, *size, 3)
    for bins in (1, 2, 3, 6):
        pooled = resize.adaptive_average_pool(jnp.asarray(x), bins).transpose(0, 3, 1, 2)
        expected = torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(x.transpose(0, 3, 1, 2)), bins
        )
        np.testing.assert_allclose(pooled, expected.numpy(), atol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(9, 7), (2, 3), (1, 1)])
def test_conv3x3_of_resized_is_resizing_and_convolving(
    size: tuple[int, int], align_corners: bool
) -> None:
    def plain(x: Array, kernel: Array) -> Array:
        return plain_conv(resize.resize_bilinear(x, size, align_corners), kernel)

    ours = partial(resize.conv3x3_of_resized, size=size, align_corners=align_corners)
    require_same_function(ours, plain, noise(2, 4, 5, 3), noise(3, 3, 3, 2, seed=2))


@pytest.mark.usefixtures("float64")
def test_sum_of_resized_is_resizing_and_adding() -> None:
    def plain(*maps: Array) -> Array:
        return sum(resize.resize_bilinear(x, (8, 12)) for x in maps)

    maps = [noise(2, *size, 3, seed=sum(size)) for size in ((8, 12), (4, 6), (8, 12), (3, 5))]
    require_same_function(lambda *maps: resize.sum_of_resized(maps), plain, *maps)
