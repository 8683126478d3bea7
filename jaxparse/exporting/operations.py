"""JAX's operations -> nodes of ONNX, opset 18: those that occur in the networks of this package.

Meanings: docs.jax.dev (jax.lax) and onnx.ai/onnx/operators. Dimensions in comments are JAX's.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var

from jaxparse.exporting.graph import Graph, Shape, Value

Lowering = Callable[[Graph, JaxprEqn], None]


def elementwise(kind: str, graph: Graph, eqn: JaxprEqn) -> None:
    """Operations that broadcast as numpy does; the result is repeated where all inputs are."""
    values = [graph.stored(var) for var in eqn.invars]
    graph.give(eqn, graph.node(kind, *(value.held for value in values)), _common(values))


def _common(values: Sequence[Value]) -> Shape:
    """The shape that numpy's broadcasting gives."""
    rank = max(len(value.shape) for value in values)
    shapes = [value.shape for value in values if len(value.shape) == rank]  # others are scalars
    return tuple(next((n for n in lengths if n != 1), 1) for lengths in zip(*shapes, strict=True))


def identity(graph: Graph, eqn: JaxprEqn) -> None:
    graph.give(eqn, *graph.stored(eqn.invars[0]))


def square(graph: Graph, eqn: JaxprEqn) -> None:
    held, shape = graph.stored(eqn.invars[0])
    graph.give(eqn, graph.node("Mul", held, held), shape)


def rsqrt(graph: Graph, eqn: JaxprEqn) -> None:
    held, shape = graph.stored(eqn.invars[0])
    graph.give(eqn, graph.node("Reciprocal", graph.node("Sqrt", held)), shape)


def cast(graph: Graph, eqn: JaxprEqn) -> None:
    from onnx import helper

    held, shape = graph.stored(eqn.invars[0])
    to = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    graph.give(eqn, graph.node("Cast", held, to=to), shape)


def select(graph: Graph, eqn: JaxprEqn) -> None:
    which, if_false, if_true = (graph.stored(var) for var in eqn.invars)
    held = graph.node("Where", which.held, if_true.held, if_false.held)
    graph.give(eqn, held, _common([which, if_false, if_true]))


def reduction(kind: str, graph: Graph, eqn: JaxprEqn) -> None:
    axes = np.array(eqn.params["axes"], np.int64)
    graph.give(eqn, graph.node(kind, graph.whole(eqn.invars[0]), axes, keepdims=0))


def argmax(graph: Graph, eqn: JaxprEqn) -> None:
    from onnx import TensorProto

    (axis,) = eqn.params["axes"]
    index = graph.node("ArgMax", graph.whole(eqn.invars[0]), axis=axis, keepdims=0)
    graph.give(eqn, graph.node("Cast", index, to=TensorProto.INT32))


def broadcast(graph: Graph, eqn: JaxprEqn) -> None:
    """Adds axes of size 1; nothing is repeated yet."""
    held, shape = graph.stored(eqn.invars[0])
    thin = [1] * len(eqn.outvars[0].aval.shape)
    for size, axis in zip(shape, eqn.params["broadcast_dimensions"], strict=True):
        thin[axis] = size
    graph.give(eqn, held if tuple(thin) == shape else graph.reshape(held, thin), tuple(thin))


def reshape(graph: Graph, eqn: JaxprEqn) -> None:
    graph.give(eqn, graph.reshape(graph.whole(eqn.invars[0]), eqn.outvars[0].aval.shape))


def transpose(graph: Graph, eqn: JaxprEqn) -> None:
    held, shape = graph.stored(eqn.invars[0])
    order = eqn.params["permutation"]
    graph.give(eqn, graph.transpose(held, order), tuple(shape[axis] for axis in order))


def concatenate(graph: Graph, eqn: JaxprEqn) -> None:
    parts = [graph.whole(var) for var in eqn.invars]
    graph.give(eqn, graph.node("Concat", *parts, axis=eqn.params["dimension"]))


def stack(graph: Graph, eqn: JaxprEqn) -> None:
    axis, shape = eqn.params["axis"], eqn.outvars[0].aval.shape
    thin = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [graph.reshape(graph.whole(var), thin) for var in eqn.invars]
    graph.give(eqn, graph.node("Concat", *parts, axis=axis))


def part(graph: Graph, eqn: JaxprEqn) -> None:
    """`slice`: only axes that are cut, since no other may depend on the number of pictures."""
    limits, shape = eqn.params["limit_indices"], eqn.invars[0].aval.shape
    starts, steps = eqn.params["start_indices"], eqn.params["strides"] or [1] * len(shape)
    axes = [i for i in range(len(shape)) if (starts[i], limits[i], steps[i]) != (0, shape[i], 1)]
    starts, limits, steps = ([n[axis] for axis in axes] for n in (starts, limits, steps))
    graph.give(eqn, graph.cut(graph.whole(eqn.invars[0]), starts, limits, axes, steps))


def dynamic_part(graph: Graph, eqn: JaxprEqn) -> None:
    """`dynamic_slice` whose starts are known."""
    shape, wanted = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    axes = [axis for axis in range(len(shape)) if shape[axis] != wanted[axis]]
    starts = [_known(graph, eqn, 1 + axis) for axis in axes]
    starts = [min(max(int(s), 0), shape[a] - wanted[a]) for s, a in zip(starts, axes, strict=True)]
    ends = [start + wanted[axis] for start, axis in zip(starts, axes, strict=True)]
    graph.give(eqn, graph.cut(graph.whole(eqn.invars[0]), starts, ends, axes))


def _known(graph: Graph, eqn: JaxprEqn, index: int) -> np.ndarray:
    held = graph.whole(eqn.invars[index])
    if isinstance(held, str):
        raise NotImplementedError(f"{eqn.primitive.name} at places that depend on the picture")
    return held


def gather(graph: Graph, eqn: JaxprEqn) -> None:
    """Indexing at known places: a block of the map, or whole rows and columns of it."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    axes, places = numbers.start_index_map, _known(graph, eqn, 1)
    held = graph.whole(eqn.invars[0])
    if places.ndim == 1:
        ends = [int(start) + sizes[axis] for start, axis in zip(places, axes, strict=True)]
        held = graph.cut(held, places.tolist(), ends, axes)
        graph.give(eqn, graph.reshape(held, eqn.outvars[0].aval.shape))
        return
    others = tuple(axis for axis in range(len(sizes)) if axis not in axes)
    if numbers.collapsed_slice_dims != axes or numbers.offset_dims != others:
        raise NotImplementedError(f"with {numbers}")
    for axis, chosen in zip(axes, _lines(places), strict=True):
        held = graph.node("Gather", held, chosen.astype(np.int64), axis=axis)
    graph.give(eqn, held)


def _lines(places: np.ndarray) -> list[np.ndarray]:
    """Places [R, C, ..., k] that are a grid of k axes -> its rows [R], columns [C], ..."""
    if places.ndim == places.shape[-1] + 1:
        lengths = enumerate(places.shape[:-1])
        lines = [places[..., i].swapaxes(0, i).reshape(n, -1)[:, 0] for i, n in lengths]
        if (np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1) == places).all():
            return lines
    raise NotImplementedError("at places that are not a grid")


def pad(graph: Graph, eqn: JaxprEqn) -> None:
    config = eqn.params["padding_config"]
    if any(inner for _, _, inner in config):
        raise NotImplementedError("padding between pixels")
    before, after = ([max(pads[side], 0) for pads in config] for side in (0, 1))
    held, (value, _) = graph.whole(eqn.invars[0]), graph.stored(eqn.invars[1])
    if any(before) or any(after):
        held = graph.node("Pad", held, np.array(before + after, np.int64), value)
    axes = [axis for axis, (low, high, _) in enumerate(config) if min(low, high) < 0]
    if axes:
        starts = [max(-config[axis][0], 0) for axis in axes]
        ends = [min(config[axis][1], 0) or np.iinfo(np.int64).max for axis in axes]
        held = graph.cut(held, starts, ends, axes)
    graph.give(eqn, held)


def reverse(graph: Graph, eqn: JaxprEqn) -> None:
    axes = eqn.params["dimensions"]
    back, before_first = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    graph.give(eqn, graph.cut(graph.whole(eqn.invars[0]), back, before_first, axes, back))


def convolution(graph: Graph, eqn: JaxprEqn) -> None:
    params, spec = eqn.params, eqn.params["dimension_numbers"]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise NotImplementedError("transposed convolution")
    # ONNX takes B C H W and O I h w, which the specification's orders lead to.
    image = graph.transpose(graph.whole(eqn.invars[0]), spec.lhs_spec)
    kernel = graph.transpose(graph.whole(eqn.invars[1]), spec.rhs_spec)
    pads = np.array(params["padding"]).T.ravel().tolist()
    held = graph.node(
        "Conv",
        image,
        kernel,
        pads=pads,
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    graph.give(eqn, graph.transpose(held, np.argsort(spec.out_spec).tolist()))


def product(graph: Graph, eqn: JaxprEqn) -> None:
    """`dot_general` by `MatMul`: the axes of the operands become [batch, left, summed] and
    [batch, summed, right]; the result is [batch, left, right], as JAX's.
    """
    summed, batch = eqn.params["dimension_numbers"]
    if all(graph.stored(var).shape != var.aval.shape for var in eqn.invars):
        raise NotImplementedError("of two operands that are repeated")
    operands = zip(eqn.invars, batch, summed, (0, 1), strict=True)
    (left, whole_left), (right, whole_right) = (_matrix(graph, *each) for each in operands)
    held = graph.node("MatMul", left, right)
    fits = whole_left and whole_right
    graph.give(eqn, held if fits else graph.reshape(held, eqn.outvars[0].aval.shape))


def _matrix(
    graph: Graph, var: Var | Literal, batch: Sequence[int], summed: Sequence[int], side: int
) -> tuple[str | np.ndarray, bool]:
    """The operand with its axes in order, and whether those that are not summed kept their shape.

    MatMul takes one axis of rows and one of columns, or a map [..., summed] by a single matrix.
    """
    held, shape = graph.stored(var)
    full = var.aval.shape
    free = [axis for axis in range(len(full)) if axis not in (*batch, *summed)]
    map_by_matrix = side == 0 and not batch and len(free) > 1
    kept = len(free) == 1 or map_by_matrix
    # Along the batch a repeated operand is left as it is: MatMul broadcasts.
    repeated = any(shape[axis] != full[axis] for axis in (*free, *summed))
    if repeated or not kept or len(summed) != 1:
        held, shape = graph.whole(var), full
    groups = (free, summed) if side == 0 else (summed, free)
    held = graph.transpose(held, [*batch, *groups[0], *groups[1]])
    if kept and len(summed) == 1:
        return held, True
    rows, columns = (math.prod(shape[axis] for axis in group) for group in groups)
    if map_by_matrix:
        return graph.reshape(held, (*(shape[axis] for axis in free), columns)), True
    return graph.reshape(held, (*(shape[axis] for axis in batch), rows, columns)), kept


BROADCASTING = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "exp": "Exp", "erf": "Erf", "logistic": "Sigmoid", "tanh": "Tanh", "neg": "Neg",
    "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual",
}  # fmt: skip
OPERATIONS: dict[str, Lowering] = {
    **{name: partial(elementwise, kind) for name, kind in BROADCASTING.items()},
    **dict.fromkeys(("stop_gradient", "copy"), identity),
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), reshape),
    "square": square,
    "rsqrt": rsqrt,
    "convert_element_type": cast,
    "select_n": select,
    "reduce_sum": partial(reduction, "ReduceSum"),
    "reduce_max": partial(reduction, "ReduceMax"),
    "argmax": argmax,
    "broadcast_in_dim": broadcast,
    "transpose": transpose,
    "concatenate": concatenate,
    "stack": stack,
    "slice": part,
    "dynamic_slice": dynamic_part,
    "gather": gather,
    "pad": pad,
    "rev": reverse,
    "conv_general_dilated": convolution,
    "dot_general": product,
}
