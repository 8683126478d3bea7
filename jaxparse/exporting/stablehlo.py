"""Program -> StableHLO for CPUs and NVIDIA GPUs, in a zip with its weights, for `jax.export`."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax import Array, export
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from jaxparse.config import Config
from jaxparse.exporting.program import Weights, picture_spec

PLATFORMS = ("cpu", "cuda")
PROGRAM, WEIGHTS, METADATA = "program.stablehlo", "weights.safetensors", "metadata.json"


def write(
    function: Callable[[Weights, Array], dict[str, Array]],
    weights: Weights,
    config: Config,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Writes the function of weights and pictures, and the weights beside it.

    They are arguments, not constants: XLA would compute at each start what depends on them alone.
    """
    specs = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in weights.items()}
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(specs, picture_spec(config))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(PROGRAM, exported.serialize())
        file.writestr(WEIGHTS, save_arrays(dict(weights)))
        file.writestr(METADATA, json.dumps(dict(metadata), indent=1))


def load(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The file as a function of pictures."""
    with zipfile.ZipFile(path) as file:
        program = export.deserialize(bytearray(file.read(PROGRAM)))
        weights = load_arrays(file.read(WEIGHTS))
    call = jax.jit(program.call)
    return lambda image: jax.tree.map(np.asarray, call(weights, image))
