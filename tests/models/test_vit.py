"""FaRL's ViT: its parts by hand, against the same written for torch, stored references."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxparse.classes import CELEBAMASK, becomes, load_classes
from jaxparse.models import split_model, vit
from jaxparse.models.ops.resize import resize_logits
from jaxparse.weights.conversion import convert
from jaxparse.weights.farl_names import FARL
from jaxparse.weights.files import flatten, unflatten
from tests import reference
from tests.foreign import NEEDS_TORCH
from tests.models.in_torch import (
    InTorch,
    Tensor,
    attend,
    random_state,
    require_same_gradients,
    without_gradient,
)

# 5×5 patches of 4×4 pixels.
SMALL = vit.ViTSize(dim=12, num_heads=3, depth=5, outputs=(0, 2, 3, 4), patch_size=4, grid=5)


def test_quick_gelu_by_hand() -> None:
    x = np.array([-1.0, 0, 1, 20])
    expected = [-1 / (1 + np.exp(1.702)), 0, 1 / (1 + np.exp(-1.702)), 20]
    np.testing.assert_allclose(vit.quick_gelu(jnp.asarray(x)), expected, rtol=1e-6)


def test_max_pool_by_hand() -> None:
    x = np.array([[1, 5, 9], [2, 3, 9], [9, 9, 9]])
    assert vit.max_pool(jnp.asarray(x)[None, :, :, None]).ravel().tolist() == [5]


def torch_maps(net: InTorch, inputs: list[Tensor]) -> list[Tensor]:
    """The maps [B, H, W, C] of a picture [B, H, W, 3]."""
    import torch
    from torch.nn.functional import conv2d, gelu, interpolate, max_pool2d

    side = SMALL.grid * SMALL.patch_size
    x = interpolate(inputs[0].permute(0, 3, 1, 2), (side, side), mode="bilinear")
    kernel = net.tensors["patch_embed.kernel"].permute(3, 2, 0, 1)
    x = conv2d(x, kernel, stride=SMALL.patch_size).flatten(2).transpose(1, 2)
    x = torch.cat([net.tensors["cls_token"].expand(len(x), 1, -1), x], 1)
    x, maps = net.layer_norm(x + net.tensors["pos_embed"], "norm_pre"), []
    for index in range(SMALL.depth):
        name = f"blocks.{index}"
        qkv = net.linear(net.layer_norm(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, -1)
        x = x + net.linear(attend(*qkv, SMALL.num_heads), f"{name}.attn.proj")
        hidden = net.linear(net.layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        x = x + net.linear(hidden * (1.702 * hidden).sigmoid(), f"{name}.mlp.fc2")
        if index in SMALL.outputs:
            maps.append(x[:, 1:].transpose(1, 2).unflatten(2, (SMALL.grid, SMALL.grid)))
    hidden = gelu(net.norm(net.transposed_conv(maps[0], "fpns.0.conv1"), "fpns.0.bn"))
    maps[0] = net.transposed_conv(hidden, "fpns.0.conv2")
    maps[1] = net.transposed_conv(maps[1], "fpns.1")
    maps[3] = max_pool2d(maps[3], 2)
    return [x.permute(0, 2, 3, 1) for x in maps]


def test_maps_and_their_gradients_are_torchs() -> None:
    """A picture of another size than that of the positions; maps of 20, 10, 5 and 2 pixels."""
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    graphdef, *state = random_state(lambda: vit.ViT(SMALL, 0.0, rngs=nnx.Rngs(0)))
    image = np.random.default_rng(1).normal(size=(2, 27, 18, 3))
    grads = require_same_gradients(graphdef, state, [image], torch_maps)
    assert without_gradient(grads) == set()


def test_drop_path_drops_branches_of_pictures() -> None:
    def run(image: jax.Array) -> list[jax.Array]:
        model = vit.ViT(SMALL, 0.5, rngs=nnx.Rngs(0))
        model = nnx.view(model, deterministic=False, use_running_average=True, remat=False)
        return model(image, nnx.Rngs(dropout=0))

    image = np.broadcast_to(reference.image(1, 20, 20), (8, 20, 20, 3))
    coarse = np.asarray(reference.jit(run)(image)[3])
    # The same picture eight times: each has its own branches.
    assert len(np.unique(coarse[:, 0, 0, 0].round(4))) > 2


NAME = "farl_vit_b16"


@lru_cache(maxsize=1)
def network(dtype: str) -> Callable[[np.ndarray, int], dict[str, np.ndarray]]:
    """Image and its positions' side -> arrays by the stored ones' names, the file's classes."""
    constants = {key: np.reshape(value, (1, 3, 1, 1)) for key, value in FARL.constants}
    conversion = convert(Path(NAME), reference.state_dict(NAME) | constants)
    graphdef, *trees = split_model(conversion.config)
    arrays = {k: v.astype(dtype) for k, v in conversion.arrays.items()}
    order = np.array(becomes(load_classes("facer"), CELEBAMASK))

    def run(state: list, image: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, *state)
        head = model(image).decode[..., order]
        logits = resize_logits(head, (512, 512))
        sample = np.arange(17) * 511 // 16
        step = 2 if image.shape[1] == 448 else 1  # of the larger picture fewer pixels are stored
        maps = (x[:, ::step, ::step].mean(-1) for x in model.backbone(image))
        return {f"after_fpn{i}_mean_over_channels": x for i, x in enumerate(maps)} | {
            "head_logits": head.transpose(0, 3, 1, 2),
            "head_logits_every_2": head[:, ::2, ::2].transpose(0, 3, 1, 2),
            "output_sampled": logits[:, :, sample][..., sample],
            "output_mean": logits.mean((2, 3)),
            "output_rms": jnp.sqrt((logits**2).mean((2, 3))),
        }

    compiled = reference.jit(run)

    def call(image: np.ndarray, side: int) -> dict[str, np.ndarray]:
        image = image.astype(np.float64)
        image = (image - image.min()) / (image.max() - image.min())  # 0..1
        config = conversion.config
        image = (255 * image - config.image_mean) / config.image_std
        quick = reference.fill("backbone.visual.positional_embedding", [50, 768]).astype(dtype)
        positions = {} if side == 448 else {"backbone.pos_embed": quick}
        state = [unflatten({k: (arrays | positions)[k] for k in flatten(tree)}) for tree in trees]
        with reference.precision(dtype):
            return jax.device_get(compiled(state, image.astype(dtype)))

    return call


@pytest.mark.full
@pytest.mark.parametrize(
    "case, size, arrays",
    [("112", (112, 112), 8), ("112_from_96x160", (96, 160), 1), ("448", (448, 448), 8)],
)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-6), ("float32", 1e-4)])
def test_farl(dtype: str, tolerance: float, case: str, size: tuple[int, int], arrays: int) -> None:
    found = network(dtype)(reference.image(1, *size), int(case[:3]))
    prefix = f"{NAME}/{case}/"
    stored = {key.split("/")[2] for key in reference.OUTPUTS if key.startswith(prefix)}
    assert len(stored) == arrays
    for name in stored:
        assert found[name].dtype == dtype
        assert reference.sample_error(prefix + name, found[name]) < tolerance, name
