"""Beside timm: whether a converted backbone gives the maps of timm's network, stage by stage."""

import re
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from rich.table import Table

from jaxparse.config import Config
from jaxparse.data.drawn.picture import draw_face
from jaxparse.models import build_backbone, resnet, swin
from jaxparse.models.segmentor import MEAN, STD
from jaxparse.weights.files import flatten, unflatten
from jaxparse.weights.names import DROPPED, TIMM_WEIGHTS, rename_back, timm_source

SIZE = 224  # pixels, timm's own
# Difference over the largest number of a stage: float32 rounding is 1e-6 to 1e-5.
TOLERANCE = 1e-3


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

    # LLVM's optimisations take most of the time of a network that runs once.
    run = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    return jax.device_get(run(state, image))


def timm_stage_maps(
    arrays: Mapping[str, np.ndarray], config: Config, image: np.ndarray
) -> list[np.ndarray]:
    """What timm's network gives for `stage_maps`. Raises ValueError if timm is not installed."""
    try:
        import timm
        import torch
    except ImportError as error:
        fix = "pip install 'jaxparse[verify]'"
        raise ValueError(f"--verify needs timm and PyTorch to compare with: {fix}") from error
    source = timm_source(config.backbone)
    model = timm.create_model(TIMM_WEIGHTS[config.backbone].split(".")[0], num_classes=0).eval()
    renamed = (rename_back(source, name, array) for name, array in arrays.items())
    weights = {key: torch.from_numpy(np.array(array, order="C")) for key, array in renamed}
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown and all(re.search(DROPPED, key) for key in missing)
    with torch.inference_mode():
        nchw = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        maps = model.forward_intermediates(
            nchw, indices=4, output_fmt="NCHW", intermediates_only=True
        )
    return [x.permute(0, 2, 3, 1).numpy() for x in maps]


def verify_backbone(name: str, arrays: Mapping[str, np.ndarray], config: Config) -> Table:
    """Both networks' stages on a drawn face: a table of the largest differences.

    Raises ValueError if they differ by more than float32 rounding.
    """
    face, _ = draw_face(seed=0, index=0, size=SIZE)
    image = ((face - MEAN) / STD)[None]
    table = Table("stage", "map", "largest number", "largest difference", title="beside timm")
    theirs = timm_stage_maps(arrays, config, image)
    for stage, (x, y) in enumerate(zip(stage_maps(arrays, config, image), theirs, strict=True)):
        largest, difference = float(abs(y).max()), float(abs(x - y).max())
        if not difference <= TOLERANCE * largest:  # or not a number
            raise ValueError(
                f"{name} gives another stage {stage} than timm's network: a number differs by "
                f"{difference:.2g}, where the largest is {largest:.4g}"
            )
        size = "×".join(map(str, x.shape[1:]))
        table.add_row(str(stage), size, f"{largest:.4g}", f"{difference:.2g}")
    return table
