"""Single operations: JAX's result beside onnxruntime's, for any number of pictures."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxparse.exporting import onnx
from jaxparse.exporting.program import trace
from tests.refusal import refuses

for library in ("onnx", "onnxruntime"):
    pytest.importorskip(library, reason=f'needs {library}: pip install "jaxparse[onnx]"')

SIDE, CHANNELS = 6, 4
KERNEL = np.random.default_rng(0).normal(size=(3, 3, CHANNELS, 5)).astype(np.float32)
CASES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "strided rows and columns": lambda x: x[:, ::2, 1::3],
    "a block": lambda x: x[:, 1:4, 2:],
    "one index": lambda x: x[:, :, 2],
    "reversed": lambda x: x[:, ::-1],
    "padded and cut": lambda x: jax.lax.pad(x, 2.0, [(0, 0, 0), (1, -2, 0), (-1, 3, 0), (0, 0, 0)]),
    "rolled": lambda x: jnp.roll(x, (-2, 1), (1, 2)),
    "windows": lambda x: x.reshape(-1, 2, 3, 2, 3, CHANNELS).swapaxes(2, 3).reshape(-1, 9, 4),
    "repeated for each picture": lambda x: jnp.concatenate(
        [jnp.broadcast_to(jnp.arange(4.0), (x.shape[0], SIDE, SIDE, CHANNELS)), x], axis=1
    ),
    "strided convolution": lambda x: jax.lax.conv_general_dilated(
        x, KERNEL, (2, 2), ((1, 0), (2, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    "dilated convolution of groups": lambda x: jax.lax.conv_general_dilated(
        x,
        KERNEL[:, :, :1, :4],
        (1, 1),
        ((2, 2), (2, 2)),
        rhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=CHANNELS,
    ),
    "map by a matrix": lambda x: x @ KERNEL[0, 0],
    "attention": lambda x: jnp.einsum("bnhc,bmhc->bhnm", x, x),
    "two axes summed": lambda x: jnp.einsum(
        "bijc,ijd->bcd", x, KERNEL.repeat(2, 0).repeat(2, 1)[:, :, 0]
    ),
    "axis in the middle": lambda x: jnp.einsum("bijc,ij->bc", x, jnp.ones((SIDE, SIDE))),
    "matrix for each picture": lambda x: jnp.einsum("bri,bijc->brjc", _rows(x), x),
    "layer norm": lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(jnp.square(x).sum()),
    "choice": lambda x: jnp.where(x > 0, jax.lax.erf(x), jax.nn.sigmoid(-x)),
    "highest class": lambda x: jnp.argmax(x, axis=3).astype(jnp.uint8),
    "softmax": lambda x: jax.nn.softmax(x, axis=3),
    "stacked": lambda x: jnp.stack([x, 2 * x], axis=1),
}


def _rows(x: jax.Array) -> jax.Array:
    matrix = jnp.arange(2.0 * SIDE).reshape(2, SIDE)
    return jnp.broadcast_to(matrix, (x.shape[0], *matrix.shape))


@pytest.mark.parametrize("name", CASES)
def test_result(name: str, tmp_path: Path) -> None:
    (pictures,) = export.symbolic_shape("N")
    spec = jax.ShapeDtypeStruct((pictures, SIDE, SIDE, CHANNELS), np.float32)
    program = trace(lambda _, x: {"y": CASES[name](x)}, {}, spec)
    onnx.write(program, tmp_path / "operation.onnx", {})
    run = onnx.load(tmp_path / "operation.onnx")
    for count in (1, 3):
        x = np.random.default_rng(count).normal(size=(count, SIDE, SIDE, CHANNELS))
        x = x.astype(np.float32)
        expected = np.asarray(CASES[name](x))
        found = run(x)["y"]
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    spec = jax.ShapeDtypeStruct((2, 3), np.float32)
    program = trace(lambda _, x: {"y": jnp.sort(x)}, {}, spec)
    with refuses("sort"):
        onnx.write(program, tmp_path / "operation.onnx", {})
