"""How far the networks are from float64 on this device, against the numbers in tests/reference.

Largest difference of a logit over the largest logit; of a training step the relative difference of
its loss, and of all gradients' norms in root mean square. float32 is measured at the highest
precision and at the device's default, which on NVIDIA's GPUs since Ampere is TF32.
"""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from flax import nnx

from benchmarks.gpu.cases import Case, Figures
from jaxparse.training.steps import losses
from tests import reference

HEADS = ("decode", "auxiliary", "auxiliary_2")
# Column -> type of the picture, precision of products.
PRECISIONS = {
    "float64": ("float64", "highest"),
    "float32 highest": ("float32", "highest"),
    "float32 default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
    "float16": ("float16", "default"),
}


SIZE = "96x160"  # of the stored logits that all networks have
FIRST = ("swin_t", "deeplabv3plus_r50", "psanet_r50", "segformer_b0", "bisenet_r18")


def cases(quick: bool) -> Iterator[Case]:
    columns = ["float32 highest", "bfloat16"] if quick else [*PRECISIONS]
    stored = {key.split("/")[0] for key in reference.OUTPUTS if f"/{SIZE}/decode/" in key}
    networks = ("segformer_b0",) if quick else (*FIRST, *sorted(stored - {*FIRST}))
    for network in networks:
        arguments = {"network": network, "columns": columns}
        yield Case(f"logits of {network}", "exact:logits", arguments)
        if network in reference.STEPS and not quick:
            yield Case(f"step of {network}", "exact:step", arguments)


def logits(network: str, columns: list[str]) -> Figures:
    """Per precision, the largest difference over all heads."""
    return {column: logits_error(network, *PRECISIONS[column]) for column in columns}


def weights_type(dtype: str) -> str:
    """In 16 bits the weights stay float32."""
    return dtype if dtype == "float64" else "float32"


def logits_error(network: str, dtype: str, products: str) -> float:
    height, width = map(int, SIZE.split("x"))
    with reference.precision(dtype), jax.default_matmul_precision(products):
        _, graphdef, *state = reference.network(network, weights_type(dtype))
        image = reference.image(2, height, width).astype(dtype)
        found = jax.jit(lambda state, image: nnx.merge(graphdef, *state)(image))(state, image)
        outputs = dict(zip(HEADS, (found.decode, *found.auxiliary), strict=False))
        errors = [
            reference.sample_error(f"{network}/{SIZE}/{head}", np.asarray(values, np.float64))
            for head, values in outputs.items()
        ]
    return float(max(errors))


def step(network: str, columns: list[str]) -> Figures:
    """Per precision, the loss's and the gradients' distance; float16 without a loss scale."""
    figures = {}
    for column in columns:
        loss, gradients = step_errors(network, *PRECISIONS[column])
        figures |= {column: loss, f"{column}, gradients": gradients}
    return figures


def step_errors(network: str, dtype: str, products: str) -> tuple[float, float]:
    expected = reference.STEPS[network]
    norms = reference.renamed_norms(expected["grad_norm"], network)
    with reference.precision(dtype), jax.default_matmul_precision(products):
        config, graphdef, *state = reference.network(
            network, weights_type(dtype), **reference.NO_DROPOUT
        )
        image = reference.image(2, 128, 128, seed=2).astype(dtype)
        loss = partial(losses, graphdef, config=config)
        gradient = jax.jit(jax.grad(loss, has_aux=True))
        rest = (image, reference.labels(2, 128, 128), jax.random.key(0))
        grads, (metrics, _) = gradient(*state, *rest)
        found = reference.norms(grads)
        total = float(metrics.loss)
    # Norms that are 0 but for rounding say nothing.
    largest = max(norms.values())
    ratios = [found[name] / norm - 1 for name, norm in norms.items() if norm > 1e-9 * largest]
    return abs(total / expected["total"] - 1), float(np.sqrt(np.mean(np.square(ratios))))
