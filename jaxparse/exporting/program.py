"""The function that is exported, picture -> mask, and its list of primitive operations.

The list is JAX's own trace for a batch of any size, with all calls inlined and loops unrolled,
everywhere the formulation that is not for CPUs (models/ops), and without what depends on weights
alone: that is computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, export
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxparse.config import Config, Precision
from jaxparse.models import split_model
from jaxparse.models.ops.resize import resize_logits
from jaxparse.models.segmentor import normalise
from jaxparse.weights.files import flatten, unflatten

Weights = dict[str, Any]  # arrays by dotted name
# Their results repeat what they are given: large ones are better made where the program runs.
REPEATING = ("broadcast_in_dim", "dynamic_slice")
LARGE = 2**16  # numbers


def picture_to_mask(
    config: Config, precision: Precision, probabilities: bool
) -> Callable[[Weights, Array], dict[str, Array]]:
    """The exported function of weights and pictures uint8 [B, S, S, 3] RGB.

    It gives `mask`, uint8 [B, S, S], and on demand `probabilities`, float32 [B, C, S, S]. Maps are
    of type `precision`; norms, softmax and logits are float32 (models/layers).
    """
    graphdef, params, _ = split_model(config)
    trained = flatten(params).keys()

    def program(weights: Weights, image: Array) -> dict[str, Array]:
        weights = {name: jnp.asarray(array, jnp.float32) for name, array in weights.items()}
        parts = ({k: v for k, v in weights.items() if (k in trained) == t} for t in (True, False))
        model = nnx.merge(graphdef, *map(unflatten, parts))
        logits = model(normalise(image, config).astype(precision)).decode
        logits = resize_logits(logits, image.shape[1:3], config.align_corners)
        outputs = {"mask": jnp.argmax(logits, axis=1).astype(jnp.uint8)}
        if probabilities:
            outputs["probabilities"] = jax.nn.softmax(logits, axis=1)
        return outputs

    return program


def picture_spec(config: Config) -> jax.ShapeDtypeStruct:
    """Pictures [N, S, S, 3] uint8 of any number N."""
    (batch,) = export.symbolic_shape("N")
    return jax.ShapeDtypeStruct((batch, config.image_size, config.image_size, 3), jnp.uint8)


def is_static(shape: Sequence[Any]) -> bool:
    """Whether no dimension depends on the number of pictures."""
    return not any(map(export.is_symbolic_dim, shape))


@dataclass(frozen=True)
class Program:
    """Operations in order; the values of the variables that no operation gives."""

    operations: list[JaxprEqn]
    constants: dict[Var, np.ndarray]
    image: Var
    outputs: dict[str, Var]


def trace(
    program: Callable[[Weights, Array], dict[str, Array]],
    weights: Weights,
    image: jax.ShapeDtypeStruct,
) -> Program:
    """The operations of `program` with these weights on pictures of this shape."""
    traced, shapes = jax.make_jaxpr(program, return_shape=True)(weights, image)
    leaves = jax.tree.leaves(weights)
    plain = jax.make_jaxpr(lambda *args: inline(traced, args))(*leaves, image)
    constants = dict(zip(plain.jaxpr.invars, leaves, strict=False))
    constants |= zip(plain.jaxpr.constvars, plain.consts, strict=True)
    names = sorted(shapes)  # as in the leaves of a dict
    outputs = dict(zip(names, plain.jaxpr.outvars, strict=True))
    return fold(Program(plain.jaxpr.eqns, constants, plain.jaxpr.invars[-1], outputs))


def inline(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """Evaluates the jaxpr without calls, loops and branches that are for CPUs."""
    return _evaluate(closed.jaxpr, closed.consts, args)


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *args], strict=True))

    def read(var: Var | Literal) -> Any:  # noqa: ANN401
        return var.val if isinstance(var, Literal) else values[var]

    for eqn in jaxpr.eqns:
        results = _results(eqn, [read(var) for var in eqn.invars])
        values |= zip(eqn.outvars, results, strict=True)
    return [read(var) for var in jaxpr.outvars]


def _results(eqn: JaxprEqn, args: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name == "platform_index":  # of lax.platform_dependent: the default is the last
        return [np.int32(len(params["platforms"]) - 1)]
    if name == "cond" and isinstance(args[0], np.integer):
        return inline(params["branches"][args[0]], args[1:])
    if name == "scan":
        return _unroll(params, args)
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if isinstance(called := params.get(key), ClosedJaxpr):
            return inline(called, args)
        if isinstance(called, Jaxpr):
            return _evaluate(called, (), args)
    results = eqn.primitive.bind(*args, **params)
    return results if eqn.primitive.multiple_results else [results]


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants and how many carried values a loop has."""
    if "ft_in" not in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = (list(part) for part in params["ft_in"].unpack())  # jax 0.12
    return len(consts), len(carry)


def _unroll(params: dict[str, Any], args: list[Any]) -> list[Any]:
    consts, carried = _counts(params)
    fixed, carry, stacked = args[:consts], args[consts:][:carried], args[consts + carried :]
    rows = []
    for index in range(params["length"]):
        results = inline(params["jaxpr"], [*fixed, *carry, *(x[index] for x in stacked)])
        carry, row = results[: len(carry)], results[len(carry) :]
        rows.append(row)
    return [*carry, *map(jnp.stack, zip(*rows, strict=True))]


def fold(program: Program) -> Program:
    """The program without the operations whose result no picture changes."""
    known, early, late = set(program.constants), [], []
    for eqn in program.operations:
        fixed = all(isinstance(var, Literal) or var in known for var in eqn.invars)
        fixed &= all(is_static(var.aval.shape) for var in eqn.outvars)
        repeats = eqn.primitive.name in REPEATING
        if fixed and not (repeats and eqn.outvars[0].aval.size > LARGE):
            early.append(eqn)
            known.update(eqn.outvars)
        else:
            late.append(eqn)
    used = [var for eqn in late for var in eqn.invars if isinstance(var, Var)]
    needed = [var for var in dict.fromkeys(used) if var in known]
    constants = dict(program.constants)

    @jax.jit
    def compute(values: list[Any]) -> list[Any]:
        values = dict(zip(constants, values, strict=True))
        for eqn in early:
            args = [v.val if isinstance(v, Literal) else values[v] for v in eqn.invars]
            values |= zip(eqn.outvars, _results(eqn, args), strict=True)
        return [values[var] for var in needed]

    arrays = map(np.asarray, compute(list(constants.values())))
    folded = dict(zip(needed, arrays, strict=True))
    return Program(late, folded, program.image, program.outputs)


def evaluate(program: Program, image: Array) -> list[Array]:
    """The outputs for these pictures, in JAX."""
    values: dict[Var, Any] = {**program.constants, program.image: image}
    for eqn in program.operations:
        args = [v.val if isinstance(v, Literal) else values[v] for v in eqn.invars]
        values |= zip(eqn.outvars, _results(eqn, args), strict=True)
    return [values[var] for var in program.outputs.values()]
