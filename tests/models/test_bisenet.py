"""BiSeNet against the same network written for torch, in one training step."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from jaxparse.classes import CELEBAMASK, IGNORE_LABEL
from jaxparse.config import Config
from jaxparse.models.bisenet import BiSeNet
from jaxparse.models.ops.resize import resize_logits
from jaxparse.models.resnet import BasicResNet
from jaxparse.training.steps import losses
from jaxparse.weights.files import flatten, unflatten
from tests import reference
from tests.foreign import NEEDS_TORCH
from tests.models.in_torch import InTorch, Tensor, random_state

DEPTHS = (1, 2, 1, 1)
CONFIG = Config(head="bisenet", align_corners=True, auxiliary_weight=1.0)


def build() -> BiSeNet:
    """A BiSeNet of few channels in the backbone."""
    backbone = BasicResNet(DEPTHS, (8, 12, 16, 20), rngs=nnx.Rngs(0))
    return BiSeNet(backbone, len(CELEBAMASK), rngs=nnx.Rngs(0))


def torch_logits(net: InTorch, image: np.ndarray, depths: tuple[int, ...]) -> list[Tensor]:
    """The three outputs [B, 19, h, w], not resized."""
    import torch
    from torch.nn.functional import interpolate, max_pool2d

    def attention(x: Tensor, name: str) -> Tensor:
        x = net.conv_norm_act(x, f"{name}.conv")
        pooled = net.conv(x.mean((2, 3), keepdim=True), f"{name}.conv_atten")
        return x * net.norm(pooled, f"{name}.bn_atten").sigmoid()

    def output(x: Tensor, name: str) -> Tensor:
        return net.conv(net.conv_norm_act(x, f"{name}.conv"), f"{name}.conv_seg")

    x = net.conv_norm_act(torch.tensor(image).permute(0, 3, 1, 2), "backbone.stem.0", 2)
    x, maps, head = max_pool2d(x, 3, 2, 1), [], "decode_head"
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            x = net.basic_block(x, f"backbone.layer{stage + 1}.{block}", stride)
        maps.append(x)
    _, fine, middle, coarse = maps
    mean = net.conv_norm_act(coarse.mean((2, 3), keepdim=True), f"{head}.conv_avg")
    coarse = attention(coarse, f"{head}.arm32") + mean
    coarse = net.conv_norm_act(interpolate(coarse, middle.shape[2:]), f"{head}.conv_head32")
    middle = attention(middle, f"{head}.arm16") + coarse
    middle = net.conv_norm_act(interpolate(middle, fine.shape[2:]), f"{head}.conv_head16")
    fused = net.conv_norm_act(torch.cat([fine, middle], 1), f"{head}.ffm.convblk")
    gate = net.conv(fused.mean((2, 3), keepdim=True), f"{head}.ffm.conv1").relu()
    fused = fused + fused * net.conv(gate, f"{head}.ffm.conv2").sigmoid()
    inputs = {"conv_out": fused, "conv_out16": middle, "conv_out32": coarse}
    return [output(x, f"{head}.{name}") for name, x in inputs.items()]


class Step(NamedTuple):
    """Losses of the decode head and of both auxiliary outputs together, gradients, statistics."""

    decode_loss: float
    auxiliary_loss: float
    grads: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]


def torch_step(net: InTorch, image: np.ndarray, label: np.ndarray, depths: tuple[int, ...]) -> Step:
    """One step with cross-entropy over all pixels."""
    import torch
    from torch.nn.functional import cross_entropy, interpolate

    target = torch.tensor(label.astype(int))
    decode, *auxiliary = (
        cross_entropy(
            interpolate(x, label.shape[1:], mode="bilinear", align_corners=True),
            target,
            ignore_index=IGNORE_LABEL,
            reduction="sum",
        )
        / label.size
        for x in torch_logits(net, image, depths)
    )
    (decode + sum(auxiliary)).backward()
    stats = {k: x.numpy() for k, x in net.tensors.items() if not x.requires_grad}
    grads = {k: x.grad.numpy() for k, x in net.tensors.items() if x.requires_grad}
    return Step(decode.item(), sum(auxiliary).item(), grads, stats)


def stored_places(size: int) -> np.ndarray:
    """The 17 rows or columns that are stored of a full-size output, corners included."""
    return np.arange(17) * (size - 1) // 16


@pytest.mark.full
@pytest.mark.parametrize("name", ["bisenet_r18", "bisenet_r34"])
def test_output_at_the_size_of_the_picture(name: str) -> None:
    config, graphdef, *state = reference.network(name, "float64")
    with reference.precision("float64"):
        image = reference.image(2, 101, 75).astype("float64")
        # The weights as arguments: as constants they take a minute to compile.
        run = reference.jit(lambda state, x: nnx.merge(graphdef, *state)(x).decode)
        logits = run(state, image)
        output = resize_logits(logits, (101, 75), config.align_corners)  # B C H W
    sampled = np.asarray(output)[:, :, stored_places(101)][..., stored_places(75)]
    assert reference.sample_error(f"{name}/101x75/output", sampled) < 1e-6


def test_a_training_step_is_torchs() -> None:
    """Sizes that are no multiple of 32: maps of 9×7, 5×4 and 3×2."""
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    graphdef, params, stats = random_state(build)
    image = reference.image(3, 70, 50, seed=2).astype("float64")
    label = reference.labels(3, 70, 50)
    with reference.precision("float64"):
        loss = partial(losses, graphdef, config=CONFIG)
        state = unflatten(params), unflatten(stats)
        step = reference.jit(jax.grad(loss, has_aux=True))
        grads, (metrics, new) = jax.device_get(step(*state, image, label, key=jax.random.key(0)))
    expected = torch_step(InTorch(params, stats, training=True), image, label, DEPTHS)
    assert metrics.decode_loss == pytest.approx(expected.decode_loss, 1e-9)
    assert metrics.auxiliary_loss == pytest.approx(expected.auxiliary_loss, 1e-9)
    for ours, theirs in ((flatten(grads), expected.grads), (flatten(new), expected.stats)):
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert abs(array).max() > 0, name
            assert abs(ours[name] - array).max() < 1e-6 * abs(array).max(), name
