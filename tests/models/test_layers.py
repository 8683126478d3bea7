import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxparse.models import layers


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
