import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxparse.models import resnet
from tests import reference

SIZES = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def abstract(name: str, **changes: tuple[int, ...]) -> resnet.ResNet:
    """The backbone without numbers."""
    return nnx.eval_shape(lambda: resnet.ResNet(resnet.SIZES[name], rngs=nnx.Rngs(0), **changes))


def map_sizes(backbone: resnet.ResNet, size: tuple[int, int]) -> list[tuple[int, int]]:
    graphdef, state = nnx.split(backbone)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    maps = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, image)
    assert [x.shape[-1] for x in maps] == [256, 512, 1024, 2048]
    return [x.shape[1:3] for x in maps]


@pytest.mark.parametrize("name", ["resnet50_v1c", "resnet50"])
@pytest.mark.parametrize(
    "size, finest, rest",
    [((64, 96), (16, 24), (8, 12)), ((101, 75), (26, 19), (13, 10)), ((1, 5), (1, 2), (1, 1))],
)
def test_maps_at_strides_4_8_8_8(
    name: str, size: tuple[int, int], finest: tuple[int, int], rest: tuple[int, int]
) -> None:
    assert map_sizes(abstract(name), size) == [finest, rest, rest, rest]


def test_maps_at_the_strides_of_classification() -> None:
    backbone = abstract("resnet50_v1c", strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
    assert map_sizes(backbone, (101, 64)) == [(26, 16), (13, 8), (7, 4), (4, 2)]


@pytest.mark.parametrize("variant", ["", "_v1c"])
@pytest.mark.parametrize("name", SIZES)
def test_stages(name: str, variant: str) -> None:
    backbone = abstract(name + variant)
    stages = [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
    assert tuple(map(len, stages)) == SIZES[name]
    # The first block has half the dilation of the rest, and alone strides and projects.
    for stage, stride, first, rest in zip(
        stages, (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4), strict=True
    ):
        dilations = [block.conv2.dilation for block in stage]
        assert dilations == [first] + [rest] * (len(stage) - 1)
        assert [block.conv2.stride for block in stage] == [stride] + [1] * (len(stage) - 1)
        assert all(block.conv1.stride == block.conv3.stride == 1 for block in stage)
        projects = [hasattr(block, "downsample") for block in stage]
        assert projects == [True] + [False] * (len(stage) - 1)
        assert stage[0].downsample[0].stride == stride


@pytest.mark.parametrize(
    "name, kernels, strides",
    [
        ("resnet50", [(7, 7, 3, 64)], [2]),
        ("resnet50_v1c", [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)], [2, 1, 1]),
    ],
)
def test_stem(name: str, kernels: list[tuple[int, ...]], strides: list[int]) -> None:
    stem = abstract(name).stem
    assert [module.conv.kernel.shape for module in stem] == kernels
    assert [module.conv.stride for module in stem] == strides


def test_a_block_from_noise_is_the_identity() -> None:
    block = reference.jit(lambda x: resnet.Bottleneck(8, 2, 1, 1, rngs=nnx.Rngs(0))(x))
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype(np.float32)
    np.testing.assert_allclose(block(x), np.maximum(x, 0), atol=1e-6)
