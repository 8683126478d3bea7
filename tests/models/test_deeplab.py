import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import Array

from jaxparse.models.deeplab import DeepLabHead


def make_head() -> DeepLabHead:
    return DeepLabHead([3, 5, 4], 6, 19, 0.1, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("coarsest", [(4, 6), (3, 4), (1, 1), (7, 11)])
def test_logits_are_at_the_finest_maps_size(coarsest: tuple[int, int]) -> None:
    def run(finest: Array, coarsest: Array) -> Array:
        return make_head()([finest, None, coarsest])  # what is between is not used

    maps = jnp.ones((2, 7, 11, 3)), jnp.ones((2, *coarsest, 4))
    assert jax.eval_shape(run, *maps).shape == (2, 7, 11, 19)


def test_branches() -> None:
    head = nnx.eval_shape(make_head)
    pointwise, *separable = head.aspp_modules
    assert pointwise.conv.kernel.shape == (1, 1, 4, 6)
    assert [module.depthwise_conv.conv.dilation for module in separable] == [12, 24, 36]
    assert [module.depthwise_conv.conv.dilation for module in head.sep_bottleneck] == [1, 1]
    assert head.bottleneck.conv.kernel.shape == (3, 3, 5 * 6, 6)
    assert head.c1_bottleneck.conv.kernel.shape == (1, 1, 3, 48)
