"""What is SegFormer's own; its logits and gradients are compared in test_networks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from jaxparse.models import segformer
from jaxparse.models.ops.resize import resize_bilinear
from jaxparse.weights.files import flatten, unflatten
from tests import reference
from tests.models.comparison import noise, require_same_function

CHANNELS = (3, 5, 4, 6)
SIZES = ((8, 12), (4, 6), (3, 5), (1, 1))
MAPS = [noise(2, *size, c) for size, c in zip(SIZES, CHANNELS, strict=True)]


def plain_head(maps: Sequence[Array], arrays: dict[str, Array], order: Sequence[int]) -> Array:
    """The heads as the paper says: products, resizing, concatenation, product, classifier."""

    def norm(x: Array, name: str) -> Array:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        scaled = (x - mean) / jnp.sqrt(var + 1e-5) * arrays[f"{name}.scale"]
        return jnp.maximum(scaled + arrays[f"{name}.bias"], 0)

    parts = []
    for i, x in enumerate(maps):
        if "bn.scale" in arrays:
            x = x @ arrays[f"linear_c.{i}.kernel"] + arrays[f"linear_c.{i}.bias"]
        else:
            x = norm(x @ arrays[f"convs.{i}.conv.kernel"][0, 0], f"convs.{i}.bn")
        parts.append(resize_bilinear(x, maps[0].shape[1:3]))
    fused = jnp.concatenate([parts[i] for i in order], axis=-1)
    if "bn.scale" in arrays:
        fused = norm(fused @ arrays["linear_fuse.kernel"][0, 0], "bn")
    else:
        fused = norm(fused @ arrays["fusion_conv.conv.kernel"][0, 0], "fusion_conv.bn")
    return fused @ arrays["conv_seg.kernel"][0, 0] + arrays["conv_seg.bias"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "head, order",
    [(segformer.SegformerHead, (3, 2, 1, 0)), (segformer.MMSegformerHead, (0, 1, 2, 3))],
)
def test_heads_multiply_resize_concatenate_and_multiply(
    head: type[nnx.Module], order: tuple[int, ...]
) -> None:
    model = nnx.view(
        head(CHANNELS, 7, 19, 0.0, rngs=nnx.Rngs(0)), deterministic=True, use_running_average=False
    )
    graphdef, *state = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, state)
    shapes = {name: array.shape for name, array in flatten(params).items()}
    arrays = {name: noise(*s, seed=i) for i, (name, s) in enumerate(shapes.items())}

    def ours(maps: Sequence[Array], arrays: dict[str, Array]) -> Array:
        return nnx.merge(graphdef, unflatten(arrays), stats)(maps)

    require_same_function(ours, lambda maps, arrays: plain_head(maps, arrays, order), MAPS, arrays)


@pytest.mark.usefixtures("float64")
def test_reduction_is_a_convolution_with_stride() -> None:
    layer = segformer.Reduction(3, 2, rngs=nnx.Rngs(0))
    graphdef, _ = nnx.split(layer)

    def ours(x: Array, kernel: Array, bias: Array) -> Array:
        return nnx.merge(graphdef, {"kernel": kernel, "bias": bias})(x)

    def plain(x: Array, kernel: Array, bias: Array) -> Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=numbers)
            + bias
        )

    require_same_function(
        ours, plain, noise(2, 7, 6, 3), noise(2, 2, 3, 3, seed=2), noise(3, seed=3)
    )


def test_maps_are_of_16_bits_and_logits_are_not() -> None:
    size = segformer.MiTSize((8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 2, 2))

    def run(image: Array) -> tuple[list[Array], Array]:
        backbone = segformer.MiT(size, 0.0, rngs=nnx.Rngs(0))
        head = segformer.SegformerHead(backbone.channels, 8, 19, 0.0, rngs=nnx.Rngs(1))
        maps = backbone(image)
        return maps, head(maps)

    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.bfloat16)
    maps, logits = jax.eval_shape(run, image)
    assert {x.dtype for x in maps} == {jnp.dtype("bfloat16")}
    assert logits.dtype == jnp.float32


@pytest.mark.full
def test_logits_at_512() -> None:
    _, graphdef, *state = reference.network("segformer_b0", "float64")
    with reference.precision("float64"):
        run = reference.jit(lambda state, image: nnx.merge(graphdef, *state)(image).decode)
        logits = np.asarray(run(state, reference.image(1, 512, 512).astype("float64")))
    assert reference.sample_error("segformer_b0/512x512/every_2nd", logits[:, ::2, ::2]) < 1e-6
