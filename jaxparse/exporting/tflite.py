"""Program -> TensorFlow Lite, one picture at a time: convolutional networks.

TensorFlow reads JAX's StableHLO, but not its erf, which transformers' GELU is, and TensorFlow Lite
moves no more than six axes, which windows of tokens need.
"""

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from jaxparse.exporting.program import Program, evaluate
from jaxparse.files import reason

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

    With `halve` the weights are kept in 16 bits, and widened where the file runs. Raises ValueError
    for a network that cannot be converted.
    """
    require_convolutional(program)
    try:
        content = _converted(program, halve)
    except Exception as error:  # the converter's own, of which each step has another
        raise ValueError(
            f"TensorFlow Lite cannot convert this network ({reason(error)}); use --to onnx"
        ) from error
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as file:  # where tools of TensorFlow Lite look for it
        file.writestr(METADATA, json.dumps(dict(metadata), indent=1))


def _converted(program: Program, halve: bool) -> bytes:
    import tensorflow as tf
    from jax.experimental import jax2tf

    def function(image: jax.Array) -> dict[str, jax.Array]:
        return dict(zip(program.outputs, evaluate(program, image), strict=True))

    image = program.image.aval
    signature = [tf.TensorSpec(image.shape, image.dtype, "image")]
    traced = tf.function(jax2tf.convert(function), input_signature=signature, autograph=False)
    concrete = traced.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], traced)
    if halve:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the block on stderr: the interpreter, in C++, tells how it computes."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The file as a function of pictures."""
    import tensorflow as tf

    with warnings.catch_warnings(), _quiet():  # the interpreter moves to a package of its own
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
