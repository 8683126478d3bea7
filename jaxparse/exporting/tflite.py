"""Program -> TensorFlow Lite, one picture at a time: convolutional networks.

TensorFlow reads JAX's StableHLO, but not its erf, which transformers' GELU is, and TensorFlow Lite
moves no more than six axes, which windows of tokens need.
"""

import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxparse.exporting.program import Program, evaluate

METADATA = "metadata.json"


def require_convolutional(program: Program) -> None:
    """Raises ValueError for a network that TensorFlow Lite cannot hold."""
    used = {eqn.primitive.name for eqn in program.operations}
    axes = max(len(v.aval.shape) for eqn in program.operations for v in eqn.outvars)
    if "erf" in used or axes > 6:
        why = "has no erf for its GELU" if "erf" in used else f"moves at most 6 axes, not {axes}"
        raise ValueError(
            f"TensorFlow Lite cannot hold this network: it {why}; convolutional networks alone "
            "can be exported with --to tflite: use --to onnx"
        )


def write(program: Program, path: Path, metadata: Mapping[str, str], halve: bool) -> None:
    """Writes the program as a .tflite file, with the metadata as a zip at its end.

    With `halve` the weights are kept in 16 bits, and widened where the file runs.
    """
    require_convolutional(program)
    import tensorflow as tf
    from jax.experimental import jax2tf

    image = program.image.aval
    names = list(program.outputs)

    def function(image: jax.Array) -> dict[str, jax.Array]:
        return dict(zip(names, evaluate(program, image), strict=True))

    converted = tf.function(
        jax2tf.convert(function), autograph=False,
        input_signature=[tf.TensorSpec(image.shape, image.dtype, "image")],
    )  # fmt: skip
    concrete = converted.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], converted)
    if halve:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
    with zipfile.ZipFile(path, "a") as file:  # where tools of TensorFlow Lite look for it
        file.writestr(METADATA, json.dumps(dict(metadata), indent=1))


def load(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The file as a function of pictures."""
    import tensorflow as tf

    with warnings.catch_warnings():  # the interpreter moves to a package of its own
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    outputs = interpreter.get_output_details()

    def one(picture: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.set_tensor(image["index"], picture[None])
        interpreter.invoke()
        arrays = (interpreter.get_tensor(output["index"])[0] for output in outputs)
        return {"mask" if a.dtype == np.uint8 else "probabilities": a for a in arrays}

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        results = [one(picture) for picture in images]
        return {name: np.stack([result[name] for result in results]) for name in results[0]}

    return run
