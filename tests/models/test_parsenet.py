"""ParseNet: against the same written for torch, stored references."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxparse.models import parsenet, split_model
from jaxparse.weights.conversion import convert
from jaxparse.weights.files import flatten, unflatten
from tests import reference
from tests.foreign import NEEDS_TORCH
from tests.models.in_torch import (
    InTorch,
    Tensor,
    random_state,
    require_same_gradients,
    without_gradient,
)


def test_borders_are_reflected_by_hand() -> None:
    conv = parsenet.ReflectedConv(1, 1, 1, use_bias=True, rngs=nnx.Rngs(0))
    conv.kernel[...], conv.bias[...] = jnp.ones((3, 3, 1, 1)), jnp.array([0.5])
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    # About the upper left corner: 4 3 4, 2 1 2, 4 3 4.
    expected = [[27.5, 24.5], [21.5, 18.5]]
    np.testing.assert_allclose(conv(x)[0, :, :, 0], expected, rtol=1e-6)
    conv.stride = 2
    np.testing.assert_allclose(conv(x)[0, :, :, 0], [[27.5]], rtol=1e-6)


class Parts(nnx.Module):
    """Every kind of part once; the whole has more of them."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.backbone = parsenet.ParseNet((4, 6), 1, rngs=rngs)
        self.up = parsenet.ResidualBlock(6, 4, 2, rngs=rngs)
        self.conv_seg = parsenet.ReflectedConv(4, 5, 1, use_bias=True, rngs=rngs)

    def __call__(self, image: jax.Array) -> list[jax.Array]:
        [x] = self.backbone(image)
        return [self.conv_seg(self.up(x))]


def torch_logits(net: InTorch, inputs: list[Tensor]) -> list[Tensor]:
    """Logits [B, H, W, 5] of pictures [B, H, W, 3]."""
    from torch.nn.functional import interpolate, leaky_relu

    def layer(x: Tensor, name: str, scale: float = 1) -> Tensor:
        x = interpolate(x, scale_factor=2.0, mode="nearest") if scale == 2 else x
        x = net.conv(x, f"{name}.conv", 2 if scale == 0.5 else 1, reflect=True)
        return net.norm(x, f"{name}.bn") if f"{name}.bn.scale" in net.tensors else x

    def block(x: Tensor, name: str, scale: float) -> Tensor:
        first, second = (1, scale) if scale < 1 else (scale, 1)
        out = layer(leaky_relu(layer(x, f"{name}.conv1", first), 0.2), f"{name}.conv2", second)
        return out + (x if scale == 1 else layer(x, f"{name}.shortcut_func", scale))

    x = layer(inputs[0].permute(0, 3, 1, 2), "backbone.encoder.0")
    x = block(x, "backbone.encoder.1", 0.5)
    x = block(x + block(x, "backbone.body.0", 1), "up", 2)
    return [net.conv(x, "conv_seg", reflect=True).permute(0, 2, 3, 1)]


def test_logits_and_their_gradients_are_torchs() -> None:
    """A map of 5×3 pixels, logits of 10×6."""
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    graphdef, *state = random_state(Parts)
    image = np.random.default_rng(1).normal(size=(2, 9, 6, 3))
    grads = require_same_gradients(graphdef, state, [image], torch_logits)
    assert without_gradient(grads) == set()


NAME = "facexlib_parsenet"


@lru_cache(maxsize=1)
def network(dtype: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Image -> arrays by the names of the stored ones."""
    conversion = convert(Path(NAME), reference.state_dict(NAME))
    graphdef, *trees = split_model(conversion.config)
    arrays = {k: v.astype(dtype) for k, v in conversion.arrays.items()}
    state = [unflatten({key: arrays[key] for key in flatten(tree)}) for tree in trees]

    def run(state: list, image: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, *state)
        encoded = image
        for block in model.backbone.encoder:
            encoded = block(encoded)
        logits = model(image).decode.transpose(0, 3, 1, 2)
        rows, columns = (np.arange(17) * (size - 1) // 16 for size in logits.shape[2:])
        return {
            "encoder_mean_over_channels": encoded.mean(-1),
            "body_mean_over_channels": (model.backbone(image)[-1] - encoded).mean(-1),
            "output_sampled": logits[:, :, rows][..., columns],
            "output_mean": logits.mean((2, 3)),
            "output_rms": jnp.sqrt((logits**2).mean((2, 3))),
        }

    compiled = reference.jit(run)

    def call(image: np.ndarray) -> dict[str, np.ndarray]:
        with reference.precision(dtype):
            return jax.device_get(compiled(state, image.astype(dtype)))

    return call


@pytest.mark.full
@pytest.mark.parametrize("size", ["128x128", "96x160", "512x512"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-6), ("float32", 1e-4)])
def test_parsenet(dtype: str, tolerance: float, size: str) -> None:
    height, width = map(int, size.split("x"))
    found = network(dtype)(reference.image(1 if size == "512x512" else 2, height, width))
    assert len(found) == 5
    for name, values in found.items():
        assert values.dtype == dtype
        assert reference.sample_error(f"{NAME}/{size}/{name}", values) < tolerance, name
