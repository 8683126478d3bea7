"""An ONNX graph under construction: nodes, constants, and shapes with the number of pictures N.

A value may be stored with size 1 along axes where its variable repeats it (numpy's broadcasting):
operations that broadcast take it as it is, others as an `Expand` of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var

from jaxparse.exporting.program import Program, is_static

Shape = tuple[Any, ...]  # of ints, and multiples of N


class Value(NamedTuple):
    """A constant or the name of a node's result, and the shape in which it is stored."""

    held: np.ndarray | str
    shape: Shape


def sizes(shape: Sequence[Any]) -> list[int]:
    """The shape as `Reshape` takes it: -1 is the dimension that depends on N."""
    return [size if is_static([size]) else -1 for size in shape]


class Graph:
    """Nodes and constants of the graph so far."""

    def __init__(self, program: Program) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._named: dict[tuple[str, Shape, bytes], str] = {}
        self._values = {var: Value(array, array.shape) for var, array in program.constants.items()}
        self._pictures = program.image.aval.shape[0]
        self._values[program.image] = Value("image", program.image.aval.shape)

    def node(self, kind: str, *inputs: str | np.ndarray, **attributes: object) -> str:
        """Adds a node; the name of its result."""
        from onnx import helper

        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [self.name(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], name, **attributes))
        return name

    def name(self, held: str | np.ndarray) -> str:
        """The name of a value; equal constants share one."""
        from onnx import numpy_helper

        if isinstance(held, str):
            return held
        key = held.dtype.str, held.shape, held.tobytes()
        if key not in self._named:
            self._named[key] = f"constant_{len(self._named)}"
            self.initializers.append(numpy_helper.from_array(held, self._named[key]))
        return self._named[key]

    def stored(self, var: Var | Literal) -> Value:
        """The variable's value, perhaps of size 1 where it is repeated."""
        if isinstance(var, Literal):
            value = np.asarray(var.val, var.aval.dtype)
            return Value(value, value.shape)
        return self._values[var]

    def whole(self, var: Var | Literal) -> str | np.ndarray:
        """The variable's value in its full shape."""
        held, shape = self.stored(var)
        if shape == var.aval.shape:
            return held
        if isinstance(held, np.ndarray) and is_static(var.aval.shape):
            return np.ascontiguousarray(np.broadcast_to(held, var.aval.shape))
        return self.node("Expand", held, self._expansion(shape, var.aval.shape))

    def _expansion(self, shape: Shape, target: Shape) -> str | np.ndarray:
        """What `Expand` takes: 1 where the size stays."""
        wanted = [1 if old == new else new for old, new in zip(shape, target, strict=True)]
        if is_static(wanted):
            return np.array(wanted, np.int64)
        pictures = self.node("Shape", "image", start=0, end=1)
        parts = [
            np.array([size], np.int64)
            if is_static([size])
            else self.node("Mul", pictures, np.array([size // self._pictures], np.int64))
            for size in wanted
        ]
        return self.node("Concat", *parts, axis=0)

    def give(self, eqn: JaxprEqn, held: str | np.ndarray, shape: Shape | None = None) -> None:
        """Sets the result of an operation, of its full shape unless another is given."""
        var = eqn.outvars[0]
        self._values[var] = Value(held, shape or var.aval.shape)

    def reshape(self, held: str | np.ndarray, shape: Shape) -> str | np.ndarray:
        """The value in another shape."""
        if isinstance(held, np.ndarray):
            return held.reshape(shape)
        return self.node("Reshape", held, np.array(sizes(shape), np.int64))

    def transpose(self, held: str | np.ndarray, order: Sequence[int]) -> str | np.ndarray:
        """The value with its axes in this order."""
        if list(order) == list(range(len(order))):
            return held
        if isinstance(held, np.ndarray):
            return np.ascontiguousarray(held.transpose(order))
        return self.node("Transpose", held, perm=list(order))

    def cut(
        self,
        held: str | np.ndarray,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> str:
        """`Slice` along some axes."""
        lists = (starts, ends, axes, steps or [1] * len(axes))
        return self.node("Slice", held, *(np.array(numbers, np.int64) for numbers in lists))
