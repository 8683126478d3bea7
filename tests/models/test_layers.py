import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from jaxparse.models import layers
from jaxparse.models.ops import resize
from tests.models.comparison import noise, plain_conv, require_same_function


def test_batch_norm_by_hand() -> None:
    norm = layers.BatchNorm(1)
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 1, 2, 1)  # mean 3, squares 4 + 1 + 0 + 9
    np.testing.assert_allclose(norm(x), x, rtol=1e-5)
    out = nnx.view(norm, use_running_average=False)(x)
    np.testing.assert_allclose(out, (x - 3) / math.sqrt(14 / 4 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(norm.mean[...], [0.1 * 3], rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], [0.9 + 0.1 * 14 / 3], rtol=1e-6)
    expected = (x - 0.3) / math.sqrt(0.9 + 1.4 / 3 + 1e-5)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-5)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 2, 1, 3)), jnp.float32)
    drop_path = layers.DropPath(0.25)
    assert drop_path(x, None) is x
    drop_path = nnx.view(drop_path, deterministic=False)
    factors = np.asarray(drop_path(x, nnx.Rngs(dropout=0)) / x)
    per_sample = factors[:, :1, :1, :1]
    np.testing.assert_allclose(factors, np.broadcast_to(per_sample, x.shape), rtol=1e-6)
    kept = per_sample > 0
    np.testing.assert_allclose(per_sample[kept], 4 / 3, rtol=1e-6)
    assert kept.mean() == pytest.approx(0.75, abs=0.02)  # three standard deviations


def test_transposed_conv_by_hand() -> None:
    conv = layers.TransposedConv(2, 3, rngs=nnx.Rngs(0))
    kernel = np.arange(24.0).reshape(2, 2, 3, 2)
    conv.kernel[...], conv.bias[...] = jnp.asarray(kernel), jnp.array([0.5, 0, 0])
    x = np.array([[[1.0, 2.0], [0, 1.0]]])  # pixels (1, 2) and (0, 1) side by side
    out = np.asarray(conv(jnp.asarray(x[None])))
    assert out.shape == (1, 2, 4, 3)
    for row in range(2):
        left, right = kernel[row] @ [1.0, 2.0], kernel[row] @ [0, 1.0]  # of two columns each
        np.testing.assert_array_equal(out[0, row], [*left + [0.5, 0, 0], *right + [0.5, 0, 0]])


def test_dropout_drops_whole_maps() -> None:
    dropout = nnx.view(layers.channel_dropout(0.1), deterministic=False)
    out = np.asarray(dropout(jnp.ones((20, 3, 5, 100)), rngs=nnx.Rngs(dropout=0)))
    np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1, :1], out.shape))
    assert np.unique(out).tolist() == pytest.approx([0, 1 / 0.9])
    assert (out[:, 0, 0] == 0).mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.usefixtures("float64")
def test_batch_norm_equals_torchs() -> None:
    torch = pytest.importorskip(
        "torch", reason="torch is not installed; pip install 'jaxparse[torch]'"
    )
    theirs = torch.nn.BatchNorm2d(3, dtype=torch.float64)
    norm = layers.BatchNorm(3)
    ours = nnx.view(norm, use_running_average=False)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(2, 4, 5, 3))
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy()
        np.testing.assert_allclose(ours(jnp.asarray(x)), expected.transpose(0, 2, 3, 1), atol=1e-12)
    np.testing.assert_allclose(norm.mean[...], theirs.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(norm.var[...], theirs.running_var.numpy(), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_gradient_of_batch_norm_is_that_of_its_formula() -> None:
    def ours(x: Array, scale: Array, bias: Array) -> Array:
        norm = layers.BatchNorm(3)
        norm.scale[...], norm.bias[...] = scale, bias
        return nnx.view(norm, use_running_average=False)(x)

    def plain(x: Array, scale: Array, bias: Array) -> Array:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    require_same_function(ours, plain, noise(2, 4, 5, 3), noise(3, seed=2), noise(3, seed=3))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_conv_is_the_plain_convolution(size: int, stride: int) -> None:
    conv = layers.Conv(3, 4, size, rngs=nnx.Rngs(0), stride=stride)

    def ours(x: Array, kernel: Array) -> Array:
        graphdef, params = nnx.split(conv)
        return nnx.merge(graphdef, nnx.State({"kernel": params["kernel"].replace(kernel)}))(x)

    def plain(x: Array, kernel: Array) -> Array:
        return plain_conv(x, kernel, stride)

    require_same_function(ours, plain, noise(2, 7, 6, 3), noise(size, size, 3, 4, seed=2))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "sizes, size",
    [
        ([(8, 12), (4, 6), (3, 5), (1, 1)], (8, 12)),
        ([(1, 1), (3, 5), (3, 5), (2, 3)], (3, 5)),
        ([(1, 1), (1, 1), (1, 1)], (1, 1)),  # the pooled map is of the full size
    ],
)
def test_resize_concat_conv_is_resizing_concatenating_convolving(
    sizes: list[tuple[int, int]], size: tuple[int, int], align_corners: bool
) -> None:
    channels = [3, 2, 4, 2][: len(sizes)]
    maps = [noise(2, *s, c) for s, c in zip(sizes, channels, strict=True)]
    graphdef, params = nnx.split(layers.ResizeConcatConv(channels, 5, rngs=nnx.Rngs(0)))

    def ours(maps: list[Array], kernel: Array) -> Array:
        conv = nnx.merge(graphdef, nnx.State({"kernel": params["kernel"].replace(kernel)}))
        return conv(maps, size, align_corners)

    def plain(maps: list[Array], kernel: Array) -> Array:
        resized = [resize.resize_bilinear(x, size, align_corners) for x in maps]
        return plain_conv(jnp.concatenate(resized, axis=-1), kernel)

    require_same_function(ours, plain, maps, noise(3, 3, sum(channels), 5, seed=2))
