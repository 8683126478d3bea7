"""The slim ResNet against the same network written for torch."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxparse.models import resnet
from jaxparse.weights.files import unflatten
from tests import reference
from tests.foreign import NEEDS_TORCH
from tests.models.in_torch import InTorch, random_state

CHANNELS, DEPTHS = (8, 12, 12, 20), (2, 1, 2, 1)


def torch_maps(net: InTorch, image: np.ndarray) -> list[np.ndarray]:
    import torch

    x, maps = torch.from_numpy(image).permute(0, 3, 1, 2), []
    for index in range(2):
        x = net.conv_norm_act(x, f"stem.{index}", 2)
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            x = net.basic_block(x, f"stages.{stage}.{block}", 2 if stage and not block else 1)
        maps.append(x.permute(0, 2, 3, 1).numpy())
    return maps


@pytest.mark.parametrize("size", [(64, 96), (101, 75)])
def test_maps_are_torchs(size: tuple[int, int]) -> None:
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    build = lambda: resnet.SlimResNet(CHANNELS, DEPTHS, rngs=nnx.Rngs(0))  # noqa: E731
    graphdef, params, stats = random_state(build)
    image = np.random.default_rng(1).normal(size=(2, *size, 3))
    with reference.precision("float64"):
        state = unflatten(params), unflatten(stats)
        maps = jax.device_get(jax.jit(lambda x: nnx.merge(graphdef, *state)(x))(image))
    for ours, theirs in zip(maps, torch_maps(InTorch(params, stats), image), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max()
