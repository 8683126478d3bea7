"""The list of operations: what is inlined, unrolled, left out, and that it computes the same."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxparse.exporting.program import Program, evaluate, picture_spec, picture_to_mask, trace
from jaxparse.weights.files import flatten
from tests.conftest import Nano


def program(function: object, *shape: int) -> Program:
    weights = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return trace(function, weights, jax.ShapeDtypeStruct(shape, np.float32))


def names(traced: Program) -> list[str]:
    return [eqn.primitive.name for eqn in traced.operations]


def test_what_depends_on_weights_alone_is_computed_once() -> None:
    traced = program(lambda w, x: {"y": x @ (w["kernel"].T * 2)}, 1, 3)
    assert names(traced) == ["dot_general"]
    (kernel,) = traced.constants.values()
    np.testing.assert_array_equal(kernel, 2 * np.arange(6).reshape(2, 3).T)


def test_large_repeats_are_not_stored() -> None:
    traced = program(lambda w, x: {"y": x + jnp.broadcast_to(w["kernel"][0], (1 << 15, 3))}, 1, 3)
    assert sum(array.size for array in traced.constants.values()) == 3


def test_branches_for_cpus_are_left_out() -> None:
    def function(weights: object, x: jax.Array) -> dict[str, jax.Array]:
        return {"y": jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)}

    assert names(program(function, 4)) == ["cos"]


def test_loops_are_unrolled() -> None:
    def function(weights: object, x: jax.Array) -> dict[str, jax.Array]:
        total, rows = jax.lax.scan(lambda t, row: (t + row, t * row), x[0], x)
        return {"total": total, "rows": rows}

    traced = program(function, 3, 2)
    assert names(traced).count("mul") == 3 == names(traced).count("add")
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows, total = evaluate(traced, x)  # outputs in the order of their names
    np.testing.assert_array_equal(total, [6, 10])
    np.testing.assert_array_equal(rows, [[0, 1], [0, 6], [8, 25]])


def test_a_network_becomes_plain_operations(nano: Nano) -> None:
    weights = flatten(nano.params) | flatten(nano.batch_stats)
    function = picture_to_mask(nano.config, "float32", probabilities=True)
    traced = trace(function, weights, picture_spec(nano.config))
    assert list(traced.outputs) == ["mask", "probabilities"]
    assert not {"jit", "cond", "scan", "custom_vjp_call"} & set(names(traced))
    batch = traced.image.aval.shape[0]
    assert traced.outputs["mask"].aval.shape == (batch, 64, 64)
    classes = len(nano.config.classes)
    assert traced.outputs["probabilities"].aval.shape == (batch, classes, 64, 64)
