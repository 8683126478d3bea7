"""EfficientNet-Lite against the stored maps and logits of timm and efficientnet-lite-pytorch."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from jaxparse.config import load_experiment
from jaxparse.models import build_backbone, efficientnet, split_model
from jaxparse.weights.conversion import convert
from jaxparse.weights.files import flatten, unflatten
from tests import reference

full = pytest.mark.full
CASES = [("lite0", "timm", "101x75"), ("lite0", "wheel", "101x75")]
CASES += [
    pytest.param(*case, marks=full)
    for case in [
        *(("lite0", kind, size) for kind in ("timm", "wheel") for size in ("96x160", "224x224")),
        *((name, kind, "101x75") for kind in ("timm", "wheel") for name in ("lite1", "lite2")),
    ]
]
PARTS = {  # of the classifier: the 1×1 convolution, its norm, the linear layer
    "timm": ("conv_head", "bn2", "classifier"),
    "wheel": ("_conv_head", "_bn1", "_fc"),
}


def class_logits(last: np.ndarray, arrays: Mapping[str, np.ndarray], kind: str) -> np.ndarray:
    """ImageNet's logits [1, 1000] from the last map [1, H, W, C]."""
    conv, norm, linear = PARTS[kind]
    x = last @ arrays[f"{conv}.weight"][:, :, 0, 0].T
    scale = arrays[f"{norm}.weight"] / np.sqrt(arrays[f"{norm}.running_var"] + 1e-3)
    x = (x - arrays[f"{norm}.running_mean"]) * scale + arrays[f"{norm}.bias"]
    pooled = x.clip(0, 6).mean((1, 2))
    return pooled @ arrays[f"{linear}.weight"].T + arrays[f"{linear}.bias"]


@pytest.mark.parametrize("name, kind, size", CASES)
def test_maps_and_logits(name: str, kind: str, size: str) -> None:
    config = replace(load_experiment("lite0"), backbone=f"efficientnet_{name}")
    state_dict = reference.state_dict(f"{kind}_efficientnet_{name}")
    arrays = convert("f", state_dict, config).arrays
    graphdef, *state = nnx.split(
        nnx.eval_shape(lambda: build_backbone(config, nnx.Rngs(0))), nnx.Param, nnx.BatchStat
    )
    names = (flatten(nnx.to_pure_dict(tree)) for tree in state)
    trees = [unflatten({k: arrays[f"backbone.{k}"].astype(float) for k in tree}) for tree in names]
    image = reference.image(1, *map(int, size.split("x"))).astype(float)
    with reference.precision("float64"):
        maps = jax.device_get(
            reference.jit(lambda trees, x: nnx.merge(graphdef, *trees)(x))(trees, image)
        )
    prefix = f"{kind}_efficientnet_{name}/{size}"
    for stage, x in enumerate(maps):
        assert x.dtype == float
        assert reference.sample_error(f"{prefix}/stage{stage}", x) < 1e-6
    logits = class_logits(maps[-1], state_dict, kind)
    assert reference.sample_error(f"{prefix}/logits", logits) < 1e-6


@pytest.mark.parametrize(
    "name, channels, depths, parameters",
    [
        # The paper's numbers, less the classifier and the 1×1 convolution before it.
        ("lite0", (24, 40, 112, 320), [1, 2, 2, 3, 3, 4, 1], 4_652_008 - 1_281_000 - 412_160),
        ("lite1", (24, 40, 112, 320), [1, 3, 3, 4, 4, 5, 1], 5_416_680 - 1_281_000 - 412_160),
        ("lite2", (24, 48, 120, 352), [1, 3, 3, 4, 4, 5, 1], 6_092_072 - 1_281_000 - 453_120),
    ],
)
def test_sizes(name: str, channels: tuple[int, ...], depths: list[int], parameters: int) -> None:
    size = efficientnet.SIZES[f"efficientnet_{name}"]
    config = replace(load_experiment("lite0"), backbone=f"efficientnet_{name}")
    _, params, _ = split_model(config)
    assert size.depths() == depths
    assert (
        tuple(size.channels(efficientnet.STAGES[i].channels) for i in efficientnet.OUTPUTS)
        == channels
    )
    assert sum(x.size for x in jax.tree.leaves(params["backbone"])) == parameters
