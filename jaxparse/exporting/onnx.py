"""Program -> ONNX, and onnxruntime to run it.

The package jax2onnx (0.17) fails at a batch of any size where maps are padded, as Swin's are, and
asks for an older orbax-checkpoint; the networks here need some thirty operations.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxparse.exporting.graph import Graph, is_static
from jaxparse.exporting.operations import OPERATIONS
from jaxparse.exporting.program import Program

OPSET, IR_VERSION = 18, 8  # of ONNX 1.13 (2022)


def write(program: Program, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the program as an ONNX file. Raises ValueError for an operation that has no node."""
    from onnx import checker, helper, save_model

    graph = Graph(program)
    for eqn in program.operations:
        name = eqn.primitive.name
        try:
            OPERATIONS[name](graph, eqn)
        except (KeyError, NotImplementedError) as error:
            raise ValueError(f"ONNX has no node here for JAX's {name} ({error})") from error
    for name, var in program.outputs.items():
        graph.nodes.append(helper.make_node("Identity", [graph.name(graph.whole(var))], [name]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "face_parsing",
            [_described("image", program.image)],
            [_described(name, var) for name, var in program.outputs.items()],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxparse",
    )
    helper.set_model_props(model, dict(metadata))
    save_model(model, path)
    checker.check_model(path)


def _described(name: str, var: object) -> object:
    from onnx import helper

    shape = [size if is_static([size]) else str(size) for size in var.aval.shape]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(var.aval.dtype)), shape
    )


def load(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The file as a function of pictures, in onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"image": image}), strict=True))

    return run
