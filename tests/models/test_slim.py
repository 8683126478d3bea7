"""The slim ResNet against the same network written for torch."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxparse.models import slim
from jaxparse.weights.files import flatten, unflatten
from tests import reference
from tests.foreign import NEEDS_TORCH

CHANNELS, DEPTHS = (8, 12, 12, 20), (2, 1, 2, 1)


def random_state() -> tuple[nnx.GraphDef, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Graph definition, params and batch_stats by dotted name."""
    model = nnx.eval_shape(lambda: slim.SlimResNet(CHANNELS, DEPTHS, rngs=nnx.Rngs(0)))
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)
    params, stats = (
        {k: rng.uniform(0.1, 1, v.shape) for k, v in flatten(nnx.to_pure_dict(tree)).items()}
        for tree in (params, stats)
    )
    kernels = {k: rng.normal(0, v[..., 0].size ** -0.5, v.shape) for k, v in params.items()}
    return graphdef, params | {k: v for k, v in kernels.items() if v.ndim == 4}, stats


def torch_maps(arrays: dict[str, np.ndarray], image: np.ndarray) -> list[np.ndarray]:
    import torch
    from torch.nn import functional

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def conv(x: Any, name: str, stride: int) -> Any:  # noqa: ANN401
        kernel = tensors[f"{name}.kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(x: Any, name: str) -> Any:  # noqa: ANN401
        stats = (tensors[f"{name}.{key}"] for key in ("mean", "var", "scale", "bias"))
        return functional.batch_norm(x, *stats, eps=1e-5)

    x, maps = torch.from_numpy(image).permute(0, 3, 1, 2), []
    for index in range(2):
        x = norm(conv(x, f"stem.{index}.conv", 2), f"stem.{index}.bn").relu()
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            at, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            out = norm(conv(x, f"{at}.conv1", stride), f"{at}.bn1").relu()
            out = norm(conv(out, f"{at}.conv2", 1), f"{at}.bn2")
            if f"{at}.downsample.0.kernel" in tensors:
                x = norm(conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            x = (out + x).relu()
        maps.append(x.permute(0, 2, 3, 1).numpy())
    return maps


@pytest.mark.parametrize("size", [(64, 96), (101, 75)])
def test_maps_are_torchs(size: tuple[int, int]) -> None:
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    graphdef, params, stats = random_state()
    image = np.random.default_rng(1).normal(size=(2, *size, 3))
    with reference.precision("float64"):
        state = unflatten(params), unflatten(stats)
        maps = jax.device_get(jax.jit(lambda x: nnx.merge(graphdef, *state)(x))(image))
    for ours, theirs in zip(maps, torch_maps(params | stats, image), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max()
