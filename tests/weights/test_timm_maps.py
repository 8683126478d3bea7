"""Backbones converted from timm against the stored maps of timm's networks."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from jaxparse.config import Config, load_experiment
from jaxparse.models import build_backbone, resnet, swin
from jaxparse.weights.conversion import convert
from jaxparse.weights.files import flatten, unflatten
from tests import reference

DEFAULT = ("swin_t", "resnet50_v1c")
FULL = ("swin_b", "resnet50", "resnet101_v1c")


def stage_maps(
    arrays: Mapping[str, np.ndarray], config: Config, image: np.ndarray
) -> list[np.ndarray]:
    """Maps [B, H, W, C] of the backbone's four stages, as timm runs it on [B, 224, 224, 3].

    That is ResNet at its ordinary strides, and Swin before mmsegmentation's norms of the outputs,
    its last stage, a single window, unshifted.
    """

    def build() -> nnx.Module:
        rngs = nnx.Rngs(0)
        if config.backbone in swin.SIZES:
            return build_backbone(config, rngs)
        ordinary = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}
        return resnet.ResNet(resnet.SIZES[config.backbone], rngs=rngs, **ordinary)

    graphdef, *state = nnx.split(nnx.eval_shape(build), nnx.Param, nnx.BatchStat)
    state = [
        unflatten({k: arrays.get(f"backbone.{k}", np.zeros(v.shape)) for k, v in tree.items()})
        for tree in map(flatten, map(nnx.to_pure_dict, state))
    ]

    def run(state: list, image: jax.Array) -> list[jax.Array]:
        model = nnx.merge(graphdef, *state)
        if config.backbone not in swin.SIZES:
            return model(image)
        for block in model.layers[-1].blocks:
            block.attn.shift = 0
        x, maps = model.patch_embed(image), []
        for layer in model.layers:
            x = layer(x, None)
            maps.append(x)
        return maps

    return jax.device_get(reference.jit(run)(state, image))


@pytest.mark.parametrize(
    "name", [*DEFAULT, *(pytest.param(name, marks=pytest.mark.full) for name in FULL)]
)
def test_backbone_from_timm_gives_timms_maps(name: str) -> None:
    config = replace(load_experiment("swin_t"), backbone=name)
    arrays = convert("f", reference.state_dict(f"timm_{name}"), config).arrays
    for stage, x in enumerate(stage_maps(arrays, config, reference.image(1, 224, 224))):
        key = f"{name}/timm/stage{stage}"
        if f"{key}_mean/step" in reference.OUTPUTS:
            key, x = f"{key}_mean", x.mean(-1)
        assert reference.sample_error(key, x) < 1e-5, key
