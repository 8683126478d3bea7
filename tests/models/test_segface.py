"""SegFace: its parts by hand, the head against the same written for torch, stored references."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxparse.classes import CELEBAMASK, becomes, load_classes
from jaxparse.models import segface, split_model
from jaxparse.models.segface import SegFaceHead, position_code
from jaxparse.models.segformer import fused_products
from jaxparse.weights.conversion import convert
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
from tests.refusal import refuses

CHANNELS = (3, 4, 5, 6)
SIZES = ((6, 10), (3, 5), (2, 3), (1, 2))  # of maps


def test_position_code_by_hand() -> None:
    # Frequencies: 1/4 along x, 1/2 along y. Centres: x -1/2 and 1/2; y -2/3, 0 and 2/3.
    matrix = jnp.array([[0.25, 0.0], [0.0, 0.5]])
    code = position_code(matrix, (3, 2))
    assert code.shape == (3, 2, 4)
    half, root = 0.5**0.5, 0.75**0.5
    expected = {(0, 0): [-half, -root, half, -0.5], (2, 1): [half, root, half, -0.5]}
    expected[1, 1] = [half, 0, half, 1]
    for (row, column), numbers in expected.items():
        np.testing.assert_allclose(code[row, column], numbers, atol=1e-6)


def torch_logits(net: InTorch, maps: list[Tensor]) -> list[Tensor]:
    """The head's logits [B, 4H, 4W, 19] of maps [B, H, W, C]."""
    import torch
    from torch.nn.functional import gelu, interpolate

    def attention(q: Tensor, k: Tensor, v: Tensor, name: str) -> Tensor:
        q, k, v = (net.linear(x, f"{name}.{p}_proj") for x, p in zip((q, k, v), "qkv", strict=True))
        return net.linear(attend(q, k, v, segface.NUM_HEADS), f"{name}.out_proj")

    size = maps[0].shape[1:3]
    parts = [net.linear(x, f"linear_c.{i}").permute(0, 3, 1, 2) for i, x in enumerate(maps)]
    parts = [interpolate(x, size, mode="bilinear") for x in parts]
    pixels = net.conv(torch.cat(parts[::-1], 1), "linear_fuse")  # B C H W
    y, x = (torch.linspace(-1, 1, 2 * n + 1, dtype=pixels.dtype)[1::2] for n in size)
    places = torch.cartesian_prod(y, x).flip(-1)  # HW (x, y)
    angles = 2 * torch.pi * places @ net.tensors["position_matrix"]
    code = torch.cat([angles.sin(), angles.cos()], -1)
    pixels = pixels.flatten(2).transpose(1, 2)  # B HW C
    token_code = tokens = net.tensors["class_tokens"].expand(len(pixels), -1, -1)
    for index in range(2):
        name = f"transformer.layers.{index}"
        if index:
            q = tokens + token_code
            tokens = tokens + attention(q, q, tokens, f"{name}.self_attn")
        else:
            tokens = attention(tokens, tokens, tokens, f"{name}.self_attn")
        tokens = net.layer_norm(tokens, f"{name}.norm1")
        cross = f"{name}.cross_attn_token_to_image"
        tokens = tokens + attention(tokens + token_code, pixels + code, pixels, cross)
        tokens = net.layer_norm(tokens, f"{name}.norm2")
        hidden = net.linear(tokens, f"{name}.mlp.lin1").relu()
        tokens = net.layer_norm(tokens + net.linear(hidden, f"{name}.mlp.lin2"), f"{name}.norm3")
        cross = f"{name}.cross_attn_image_to_token"
        pixels = pixels + attention(pixels + code, tokens + token_code, tokens, cross)
        pixels = net.layer_norm(pixels, f"{name}.norm4")
    name = "transformer.final_attn_token_to_image"
    tokens = tokens + attention(tokens + token_code, pixels + code, pixels, name)
    tokens = net.layer_norm(tokens, "transformer.norm_final_attn")
    x = net.transposed_conv(pixels.transpose(1, 2).unflatten(2, size), "upscaling.conv1")
    x = net.layer_norm(x.permute(0, 2, 3, 1), "upscaling.norm", 1e-6).permute(0, 3, 1, 2)
    x = gelu(net.transposed_conv(gelu(x), "upscaling.conv2"))
    for index in range(2):
        tokens = net.linear(tokens, f"hypernetwork.{index}").relu()
    vectors = net.linear(tokens, "hypernetwork.2")
    return [(vectors @ x.flatten(2)).unflatten(2, x.shape[2:]).permute(0, 2, 3, 1)]


class OfMaps(SegFaceHead):
    """The head as a module of maps that gives a list."""

    def __call__(self, *maps: jax.Array) -> list[jax.Array]:
        return [super().__call__(maps)]


def test_head_and_its_gradients_are_torchs() -> None:
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    graphdef, *state = random_state(lambda: OfMaps(CHANNELS, 16, 19, 0.1, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(2, *s, c)) for s, c in zip(SIZES, CHANNELS, strict=True)]
    grads = require_same_gradients(graphdef, state, maps, torch_logits)
    # What is added to all keys alike, softmax takes out.
    assert without_gradient(grads) == {name for name in grads if name.endswith("k_proj.bias")}
    assert state[1].keys() == {"position_matrix"}


def test_types_of_16_bits() -> None:
    def run(*maps: jax.Array) -> tuple[jax.Array, ...]:
        module = SegFaceHead(CHANNELS, 16, 19, 0.1, rngs=nnx.Rngs(0))
        fused = fused_products(maps, module.linear_c, module.linear_fuse)
        return module(maps), *module.decode(fused)

    maps = [jnp.ones((1, *s, c), jnp.bfloat16) for s, c in zip(SIZES, CHANNELS, strict=True)]
    logits, tokens, pixels = jax.eval_shape(run, *maps)
    assert (logits.shape, logits.dtype) == ((1, 24, 40, 19), jnp.float32)
    assert tokens.dtype == pixels.dtype == jnp.bfloat16


def test_channels_that_do_not_divide() -> None:
    with refuses("head_channels is 24", "multiple of 16", "256"):
        SegFaceHead(CHANNELS, 24, 19, 0.1, rngs=nnx.Rngs(0))


NAME = "segface_swin_b"


@lru_cache(maxsize=1)
def network(dtype: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Image -> arrays by the names of the stored ones, classes in the file's order."""
    conversion = convert(Path(NAME), reference.state_dict(NAME))
    graphdef, *trees = split_model(conversion.config)
    arrays = {k: v.astype(dtype) for k, v in conversion.arrays.items()}
    state = [unflatten({key: arrays[key] for key in flatten(tree)}) for tree in trees]
    order = np.array(becomes(load_classes("facer"), CELEBAMASK))

    def run(state: list, image: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, *state)
        maps, head = model.backbone(image), model.decode_head
        fused = fused_products(maps, head.linear_c, head.linear_fuse)
        tokens, pixels = head.decode(fused)
        logits = model(image).decode[..., order].transpose(0, 3, 1, 2)
        rows, columns = (np.arange(17) * (size - 1) // 16 for size in logits.shape[2:])
        code = position_code(head.position_matrix[...], fused.shape[1:3])
        means = {f"feature{i}": x for i, x in enumerate(maps)}
        means |= {"linear_fuse": fused, "tokens": tokens[:, order]}
        return {f"{k}_mean_over_channels": x.mean(-1) for k, x in means.items()} | {
            "tokens": tokens[:, order] if image.shape[1] == 224 else tokens[:, order, ::16],
            "class_vectors": head.class_vectors(tokens)[:, order],
            "position_code_every_8th": code[::8, ::8].transpose(2, 0, 1),
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
@pytest.mark.parametrize("size", ["224x224", "96x160", "512x512"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-6), ("float32", 1e-4)])
def test_swin_b(dtype: str, tolerance: float, size: str) -> None:
    height, width = map(int, size.split("x"))
    found = network(dtype)(reference.image(1 if size == "512x512" else 2, height, width))
    prefix = f"{NAME}/{size}/"
    stored = {key.split("/")[2] for key in reference.OUTPUTS if key.startswith(prefix)}
    assert len(stored) == (12 if size == "224x224" else 11)
    for name in stored:
        assert found[name].dtype == dtype
        assert reference.sample_error(prefix + name, found[name]) < tolerance, name
