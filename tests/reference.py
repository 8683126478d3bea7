"""Reference numbers of other packages, and the rules that make their weights and inputs.

tests/reference holds samples of what mmsegmentation 1.2.2, transformers 5.24.0, zllrunning's and
yakhyo's BiSeNet (PyTorch 2.13, float64) and timm 1.0.31 (float32) computed, with the classes in the
official order. The weights were a function of each parameter's name and shape in those packages, so
that no weight file is needed: they come here through convert_weights' mapping.
"""

import json
import zlib
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxparse.config import Config, load_experiment
from jaxparse.models import split_model
from jaxparse.weights.conversion import convert
from jaxparse.weights.files import flatten, unflatten
from jaxparse.weights.names import recognise
from jaxparse.weights.naming import regroup, rename

EXPERIMENTS = {  # network -> an experiment that has it, where that has another name
    "deeplabv3plus_r50": "deeplabv3plus_r50_20k",
    "deeplabv3plus_r101": "deeplabv3plus_r101_20k",
    "psanet_r50": "psanet_r50_80k",
    "psanet_r101": "psanet_r101_80k",
    "segformer_b5": "segformer_b0",
    "hf_upernet_swin_t": "swin_t",
}
# Network -> its file, where that is not mmsegmentation's; and fields of its config that differ
# from the experiment's.
FILES = {name: f"hf_{name}" for name in ("segformer_b0", "segformer_b5")}
FILES["hf_upernet_swin_t"] = "hf_upernet_swin_t"
FILES |= {"bisenet_r18": "zllrunning_bisenet_r18", "bisenet_r34": "yakhyo_bisenet_r34"}
FIELDS = {"segformer_b5": {"backbone": "mit_b5", "head_channels": 768}}
FOLDER = Path(__file__).parent / "reference"


def stored(pattern: str) -> ChainMap[str, Any]:
    """What the .json or .npz files of that pattern hold, one after another."""
    load = np.load if pattern.endswith("npz") else lambda path: json.loads(path.read_text())
    return ChainMap(*map(load, sorted(FOLDER.glob(pattern))))


SHAPES = stored("shapes*.json")  # file -> key -> shape
TRAINING = json.loads((FOLDER / "training.json").read_text())
STEPS = stored("training_step*.json") | TRAINING["training_step"]  # by network
OUTPUTS = stored("outputs*.npz")  # name/{values, step, largest}: every step-th number
BATCH_NORM = stored("batch_norm*.npz")  # network/key: running statistics after the step
# LLVM's optimisations take most of the time of a test that runs a network once.
FAST_COMPILE = {"xla_backend_optimization_level": 0}
NO_DROPOUT = {"dropout_rate": 0, "drop_path_rate": 0}
BUFFERS = ("relative_position_index", "attn_mask", "num_batches_tracked")


def fill(name: str, shape: list[int]) -> np.ndarray:
    """The weights of the parameter `name`, float32."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return 0.75 + 0.5 * rng.random(shape, dtype=np.float32)
    if name.endswith("running_mean"):
        return 0.1 * x
    if name.endswith("relative_position_bias_table"):
        return 0.5 * x
    if len(shape) == 1:
        return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return x * np.float32(np.sqrt(1.5 / np.prod(shape[1:])))


def image(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Normalised image float32 [B, H, W, 3]: waves and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    out = np.empty((batch, height, width, 3), np.float32)
    for i in range(batch):
        for channel in range(3):
            a, b, phase = rng.uniform(2, 9, 3)
            noise = 0.3 * rng.standard_normal((height, width))
            out[i, :, :, channel] = np.sin(a * x + phase) * np.cos(b * y - phase) + noise
    return out


def labels(batch: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    """Labels uint8 [B, H, W]: squares of 16 pixels, and 4 rows of 255."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 19, (batch, (height + 15) // 16, (width + 15) // 16))
    out = np.kron(small, np.ones((1, 16, 16), int))[:, :height, :width].astype(np.uint8)
    out[:, :4] = 255
    return out


def state_dict(file: str) -> dict[str, np.ndarray]:
    """The checkpoint `file` of shapes.json by its own names; buffers are zeros."""
    return {
        key: np.zeros(shape, np.float32) if key.endswith(BUFFERS) else fill(key, shape)
        for key, shape in SHAPES[file].items()
    }


class Network(NamedTuple):
    """A network with the rule's weights."""

    config: Config
    graphdef: nnx.GraphDef
    params: dict[str, Any]
    batch_stats: dict[str, Any]


def experiment(name: str) -> Config:
    """The config of the network `name`."""
    config = load_experiment(EXPERIMENTS.get(name, name))
    return replace(config, **FIELDS.get(name, {}))


def file_of(name: str) -> str:
    """The checkpoint of the network `name`, by its name in SHAPES."""
    return FILES.get(name, f"mmseg_{name}")


@lru_cache(maxsize=1)  # of 120 million numbers at most; float32 and float64 follow each other
def converted(name: str) -> dict[str, np.ndarray]:
    """The network `name` by this package's names, float32."""
    file = file_of(name)
    arrays = convert(Path(file), state_dict(file), experiment(name)).arrays
    return {key: np.ascontiguousarray(array) for key, array in arrays.items()}  # quicker to cast


def network(name: str, dtype: str, **changes: object) -> Network:
    """The network `name`, converted from its file; `changes` are to its config."""
    config = replace(experiment(name), **changes)
    graphdef, params, batch_stats = split_model(config)
    trees = (
        {key: converted(name)[key].astype(dtype, copy=False) for key in flatten(tree)}
        for tree in (params, batch_stats)
    )
    return Network(config, graphdef, *map(unflatten, trees))


def our_names(file: str) -> dict[str, str]:
    """The names in a checkpoint -> the names here, before parameters are joined or cut."""
    shapes = SHAPES[file]
    source = recognise(Path(file), shapes)
    return {key: rename(source, key, np.empty(shape))[0] for key, shape in shapes.items()}


def renamed(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`values` of the network `name` in its file by this package's names."""
    names = our_names(file_of(name))
    return {names[key]: value for key, value in values.items()}


def renamed_norms(norms: Mapping[str, float], name: str) -> dict[str, float]:
    """L2 norms of a network's parameters in its file -> of the parameters here.

    A parameter that is joined here has the root of the sum of their squares.
    """
    parts = {key: np.array([norm]) for key, norm in renamed(norms, name).items()}
    naming = recognise(Path(name), SHAPES[file_of(name)])
    joined = regroup(parts, *naming.regrouped).items()
    return {key: float(np.linalg.norm(norms)) for key, norms in joined}


def norms(tree: dict[str, Any]) -> dict[str, float]:
    """L2 norm of each array by dotted name."""
    arrays = {name: np.asarray(array, np.float64) for name, array in flatten(tree).items()}
    return {name: float(np.linalg.norm(array)) for name, array in arrays.items()}


def jit(function: Callable) -> Callable:
    """jax.jit as these tests use it."""
    return jax.jit(function, compiler_options=FAST_COMPILE)


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """JAX's 64-bit mode within the block if `dtype` is float64."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def sample_error(name: str, values: np.ndarray) -> float:
    """Largest difference of `values` from the stored sample, over the largest number of all."""
    sample = np.asarray(values).ravel()[:: int(OUTPUTS[f"{name}/step"])]
    return abs(sample - OUTPUTS[f"{name}/values"]).max() / OUTPUTS[f"{name}/largest"]
