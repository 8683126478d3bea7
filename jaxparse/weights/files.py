"""Weights on disk: one flat safetensors file, which says what network it is for.

Dotted names of this package's own layout (kernels HWIO and [in, out]); the network, the classes and
their source are metadata. They load strictly.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxparse.classes import LABEL_ORDERS, NAMES, order_names
from jaxparse.config import (
    Config,
    load_experiment,
    read_config,
)
from jaxparse.files import atomic_path
from jaxparse.models import split_model

# In a run's folder, of its best evaluation: the weights, and their moving average.
BEST_WEIGHTS = "best.safetensors"
BEST_EMA_WEIGHTS = "best_ema.safetensors"
# What decides the network's shapes.
NETWORK_FIELDS = ("backbone", "head", "head_channels", "auxiliary_channels")


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict with dotted names."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Undoes `flatten`; parts of a name that are digits become int keys, as in lists of modules."""
    tree: dict[Any, Any] = {}
    for name, value in flat.items():
        *path, last = (int(part) if part.isdigit() else part for part in name.split("."))
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def save_weights(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    config: Config,
    source: str,
    fresh: Iterable[str] = (),
) -> None:
    """Writes float32 arrays by dotted name; `fresh` are prefixes that are left to noise.

    The file of a backbone alone records nothing of the heads: it serves any.
    """
    is_backbone = all(name.startswith("backbone.") for name in arrays)
    fields = NETWORK_FIELDS[:1] if is_backbone else NETWORK_FIELDS
    size = {} if is_backbone else {"image_size": config.image_size}
    metadata = {
        "format": "jaxparse",
        "network": json.dumps({name: getattr(config, name) for name in fields} | size),
        "classes": ",".join(NAMES),
        "source": source,
        "fresh": ",".join(fresh),
    }
    # Not save_file: it leaves a temporary file of its own when killed, and hides the disk's errors.
    content = save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by dotted name and the metadata. Raises ValueError for any file of another kind."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; make one with python -m jaxparse.convert_weights"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file or is cut short: {error}") from error
    if metadata.get("format") != "jaxparse":
        raise ValueError(f"{path} was not written by jaxparse; run jaxparse.convert_weights on it")
    classes = metadata["classes"].split(",")
    if classes != list(NAMES):
        orders = (order for order in LABEL_ORDERS if list(order_names(order)) == classes)
        raise ValueError(
            f"{path} has the classes in the order {next(orders, ', '.join(classes))}, expected "
            "the official one: convert the checkpoint that it comes from with "
            "python -m jaxparse.convert_weights --label-order"
        )
    return arrays, metadata


def load_weights(
    path: str | Path,
    config: Config,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    allow_fresh: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`params` and `batch_stats` with every array replaced by the file's.

    With `allow_fresh`, arrays whose names start with one of the file's `fresh` prefixes are kept
    (a backbone's file for a whole network). Raises ValueError if the file records another network,
    or that lists both sides where names or shapes do not match.
    """
    arrays, metadata = read_weights(path)
    network = json.loads(metadata["network"])
    network.pop("image_size", None)  # the weights serve any
    ours = ((name, theirs, getattr(config, name, None)) for name, theirs in network.items())
    faults = [f"{name} {theirs}, not {here}" for name, theirs, here in ours if theirs != here]
    if faults:
        raise ValueError(f"{path} holds {', '.join(faults)}; check --exp")
    fresh = tuple(filter(None, metadata["fresh"].split(",")))
    if fresh and not allow_fresh:
        raise ValueError(f"{path} has no weights for {', '.join(fresh)}; train from it first")
    wanted = flatten(params) | flatten(batch_stats)
    kept = {name for name in wanted if name not in arrays and name.startswith(fresh)}
    require_match(path, arrays, {k: v for k, v in wanted.items() if k not in kept})

    def fill(tree: dict[str, Any]) -> dict[str, Any]:
        return unflatten({name: arrays.get(name, old) for name, old in flatten(tree).items()})

    return fill(params), fill(batch_stats)


def require_match(path: str | Path, arrays: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError listing names and shapes that `arrays` and `wanted` do not share."""
    faults = [f"missing {name}" for name in wanted if name not in arrays]
    faults += [f"unknown {name}" for name in arrays if name not in wanted]
    faults += [
        f"{name} is {arrays[name].shape}, not {wanted[name].shape}"
        for name in wanted
        if name in arrays and arrays[name].shape != wanted[name].shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ValueError(f"{path} does not fit the network: {shown}")


def weights_of_run(workdir: str | Path) -> Path:
    """The best weights in a run's folder. Raises ValueError if there are none."""
    path = Path(workdir) / BEST_WEIGHTS
    if not path.is_file():
        raise ValueError(f"{workdir} has no {BEST_WEIGHTS} yet; train writes it when it evaluates")
    return path


def config_of_weights(path: str | Path) -> Config:
    """A Config of the network whose weights the file holds, all other fields the defaults.

    Raises ValueError for a file of another kind and for one of a backbone alone.
    """
    fields = json.loads(read_weights(path)[1]["network"])
    if "head_channels" not in fields:
        raise ValueError(f"{path} holds a backbone alone; train from it first")
    return Config(**fields)


def load_network(
    workdir: str | None = None, exp: str | None = None, weights: str | Path | None = None
) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    """Config, params and batch_stats of a run's best weights, or of a file.

    With a file, `exp` names the experiment whose Config is taken; by default the file says what it
    needs. Raises ValueError unless either `workdir` or `weights` is given.
    """
    if bool(workdir) == bool(weights) or (exp and workdir):
        raise ValueError(
            "give either --workdir RUN, or --weights FILE (with --exp NAME or without)"
        )
    path = weights_of_run(workdir) if workdir else weights
    if workdir:
        config = read_config(workdir)
    else:
        config = load_experiment(exp) if exp else config_of_weights(path)
    _, params, batch_stats = split_model(config)
    return config, *load_weights(path, config, params, batch_stats)


def find_init_weights(config: Config, exp: str) -> Path | None:
    """The file that `config.init_weights` means, None for noise.

    Raises ValueError, with the command that makes it, if there is none.
    """
    if config.init_weights == "none":
        return None
    path, noise = Path(config.init_weights), "--init-weights none starts from noise"
    if path.suffix == ".safetensors":
        if not path.is_file():
            command = f"python -m jaxparse.convert_weights --exp {exp} --output {path}"
            raise ValueError(f"there is no file {path}; make it with {command}; {noise}")
        return path
    best = path / BEST_WEIGHTS
    if not best.is_file():
        fix = "train that run first, or give another RUN or FILE to --init-weights"
        raise ValueError(f"there is no {best}; {fix}; {noise}")
    return best
