"""Layers by the names of this package's arrays, written for torch, to compare networks with."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from jaxparse.weights.files import flatten, unflatten
from tests import reference

Arrays = dict[str, np.ndarray]
Tensor = Any  # torch is imported late: it may be missing


def random_state(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Arrays, Arrays]:
    """Graph definition, random params and batch_stats by dotted name, float64."""
    graphdef, params, stats = nnx.split(nnx.eval_shape(build), nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)
    params, stats = (
        {k: rng.uniform(0.1, 1, v.shape) for k, v in flatten(nnx.to_pure_dict(tree)).items()}
        for tree in (params, stats)
    )
    kernels = {k: rng.normal(0, v[..., 0].size ** -0.5, v.shape) for k, v in params.items()}
    return graphdef, params | {k: v for k, v in kernels.items() if v.ndim > 1}, stats


class InTorch:
    """Layers on [B, C, H, W], linear layers and layer norms on [..., C].

    `tensors` holds the arrays by name.
    """

    def __init__(self, params: Arrays, stats: Arrays, training: bool = False) -> None:
        import torch

        self.training = training
        self.tensors = {name: torch.tensor(array) for name, array in (params | stats).items()}
        for name in params:
            self.tensors[name].requires_grad_(training)

    def conv(self, x: Tensor, name: str, stride: int = 1, reflect: bool = False) -> Tensor:
        from torch.nn.functional import conv2d, pad

        kernel = self.tensors[f"{name}.kernel"].permute(3, 2, 0, 1)
        x = pad(x, [kernel.shape[-1] // 2] * 4, "reflect" if reflect else "constant")
        return conv2d(x, kernel, self.tensors.get(f"{name}.bias"), stride)

    def norm(self, x: Tensor, name: str) -> Tensor:
        from torch.nn.functional import batch_norm

        parts = (self.tensors[f"{name}.{key}"] for key in ("mean", "var", "scale", "bias"))
        return batch_norm(x, *parts, training=self.training, momentum=0.1, eps=1e-5)

    def transposed_conv(self, x: Tensor, name: str) -> Tensor:
        from torch.nn.functional import conv_transpose2d

        kernel = self.tensors[f"{name}.kernel"].permute(3, 2, 0, 1)
        return conv_transpose2d(x, kernel, self.tensors[f"{name}.bias"], stride=2)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.tensors[f"{name}.kernel"] + self.tensors[f"{name}.bias"]

    def layer_norm(self, x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        from torch.nn.functional import layer_norm

        scale, bias = (self.tensors[f"{name}.{key}"] for key in ("scale", "bias"))
        return layer_norm(x, x.shape[-1:], scale, bias, eps)

    def conv_norm_act(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self.norm(self.conv(x, f"{name}.conv", stride), f"{name}.bn").relu()

    def basic_block(self, x: Tensor, name: str, stride: int) -> Tensor:
        out = self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
        out = self.norm(self.conv(out, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.kernel" in self.tensors:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (out + x).relu()


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Attention of [B, N, C] to [B, M, C], twice -> [B, N, C]."""
    from torch.nn.functional import scaled_dot_product_attention

    heads = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


def require_same_gradients(
    graphdef: nnx.GraphDef,
    state: Sequence[Arrays],
    inputs: list[np.ndarray],
    theirs: Callable[[InTorch, list[Tensor]], list[Tensor]],
) -> dict[str, np.ndarray]:
    """Outputs of the module and of its twin in torch, and the gradients of their mean squares.

    In float64; `inputs` and outputs are [B, H, W, C]. Returns the gradients of the parameters.
    """
    import torch

    def loss(params: dict, stats: dict) -> tuple[Array, list[Array]]:
        outputs = nnx.merge(graphdef, params, stats)(*inputs)
        return sum((x**2).mean() for x in outputs), outputs

    with reference.precision("float64"):
        step = reference.jit(jax.grad(loss, has_aux=True))
        grads, outputs = jax.device_get(step(*map(unflatten, state)))
    net = InTorch(*state)
    for name in state[0]:
        net.tensors[name].requires_grad_()
    expected = theirs(net, list(map(torch.tensor, inputs)))
    sum((x**2).mean() for x in expected).backward()
    for ours, other in zip(outputs, expected, strict=True):
        other = other.detach().numpy()
        assert ours.shape == other.shape
        assert abs(ours - other).max() < 1e-9 * abs(other).max()
    grads = flatten(grads)
    largest = max(abs(grad).max() for grad in grads.values())
    for name, grad in grads.items():
        assert abs(grad - net.tensors[name].grad.numpy()).max() < 1e-9 * largest, name
    return grads


def without_gradient(grads: Arrays) -> set[str]:
    """The parameters that change nothing, up to rounding."""
    largest = max(abs(grad).max() for grad in grads.values())
    return {name for name, grad in grads.items() if abs(grad).max() < 1e-13 * largest}
