"""What a run leaves on disk: training state by orbax, weights as safetensors.

Weights are one flat file: dotted names of this package's own layout (kernels HWIO and [in, out]),
with the network, the classes and their source as metadata. They load strictly.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxparse.classes import LABEL_ORDERS, NAMES, order_names
from jaxparse.config import Config, load_experiment, read_config
from jaxparse.faults import reason, require_intact, seal, writing
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


def used_fields(state: Any) -> dict[str, Any]:  # noqa: ANN401
    """Fields of a TrainState that are not None: a run's checkpoint holds no others.

    So checkpoints from before a field was there go on being read.
    """
    return {name: value for name, value in state._asdict().items() if value is not None}


class Checkpoints:
    """The training states of a run, the newest two, by orbax.

    Saving returns at once and writes in the background; what a killed process leaves half-written
    is ignored. A checkpoint holds the TrainState and the state of the data iterator, per process,
    and the checksums of its files: tensorstore reads flipped bits of an array without complaint.
    """

    def __init__(self, workdir: str | Path) -> None:
        self.folder = Path(workdir).resolve() / "checkpoints"
        self._saving = 0
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def _seal(self) -> None:
        """Before orbax gives a written checkpoint its name: all is there, nothing counts yet."""
        if jax.process_index() == 0:
            seal(next(self.folder.glob(f"{self._saving}.*tmp*")))

    def _writing(self) -> AbstractContextManager[None]:
        kept = [step for step in self.manager.all_steps() if step != self._saving]
        said = (
            f"the checkpoint after step {max(kept)} is kept"
            if kept
            else "there is no checkpoint yet"
        )
        return writing(f"the checkpoint after step {self._saving}", self.folder, said)

    def latest_step(self) -> int | None:
        """Steps done at the newest checkpoint that is on disk, None if there is none.

        Raises OSError if it could not be written.
        """
        with self._writing():
            self.manager.wait_until_finished()
        return self.manager.latest_step()

    def check(self) -> None:
        """Raises OSError if the last checkpoint could not be written; does not wait for it."""
        if not self.manager.is_saving_in_progress():
            self.latest_step()

    def save(self, step: int, state: Any, loader: grain.DatasetIterator) -> None:  # noqa: ANN401
        """Saves after `step` steps, unless that is already saved."""
        if step == self.latest_step():
            return
        args = {"state": ocp.args.StandardSave(used_fields(state)), "data": CheckpointSave(loader)}
        self._saving = step
        with self._writing():
            self.manager.save(step, args=ocp.args.Composite(**args))

    def restore(self, state: Any, loader: grain.DatasetIterator) -> tuple[Any, int, list[str]]:  # noqa: ANN401
        """The newest TrainState that is whole, its step, and a line on each newer one.

        Placed like `state`, which comes back, with 0, if there is no checkpoint; `loader` is moved
        to its place. Those that cannot be read are renamed to STEP.corrupt, to be out of the way.
        Raises ValueError if none can: never from the start by itself.
        """
        folders = (path for path in self.folder.iterdir() if path.name.isdigit())
        faults: dict[Path, str] = {}
        for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
            try:
                require_intact(folder)
                restored = self._read(int(folder.name), state, loader)
            except Exception as error:  # libraries raise all kinds on damaged files
                faults[folder] = reason(error)
                continue
            return restored, int(folder.name), self._put_aside(faults)
        if not faults:
            return state, 0, []
        listed = "; ".join(f"{folder.name}: {fault}" for folder, fault in faults.items())
        raise ValueError(
            f"no checkpoint in {self.folder} can be read ({listed}); copy one back, or delete that "
            "folder to start anew"
        )

    def _read(self, step: int, state: Any, loader: grain.DatasetIterator) -> Any:  # noqa: ANN401
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, used_fields(state))
        args = {"state": ocp.args.StandardRestore(abstract)}
        data = self.folder / str(step) / "data"
        if (data / _data_file(jax.process_index(), jax.process_count())).exists():
            args["data"] = CheckpointRestore(loader)
        else:
            _divide_anew(data, loader)
        restored = self.manager.restore(step, args=ocp.args.Composite(**args))
        return state._replace(**restored.state)

    def _put_aside(self, faults: Mapping[Path, str]) -> list[str]:
        lines = []
        if not faults:
            return lines
        for folder, fault in faults.items():
            aside = folder.with_name(f"{folder.name}.corrupt")
            lines.append(f"{folder} cannot be read ({fault}); it is put aside as {aside.name}")
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
        multihost_utils.sync_global_devices("checkpoints put aside")
        self.manager.reload()
        return lines

    def close(self) -> None:
        """Waits until all is on disk. Raises OSError if the last could not be written."""
        self.latest_step()
        self.manager.close()


def _data_file(index: int, count: int | str) -> str:
    """Where grain keeps the place in the data of one of `count` processes."""
    return f"process_{index}-of-{count}.json"


def _divide_anew(data: Path, loader: grain.DatasetIterator) -> None:
    """Moves `loader` to the place that another number of processes have saved in `data`.

    Together they have taken all pictures up to there, each the same number.
    """
    counts = [int(path.stem.rsplit("-", 1)[1]) for path in data.glob(_data_file(0, "*"))]
    if len(counts) != 1:
        raise ValueError(
            f"{data} holds no place in the data; delete that checkpoint, {data.parent}"
        )
    taken = json.loads((data / _data_file(0, counts[0])).read_text())["next_index"] * counts[0]
    loader.set_state({"next_index": taken // jax.process_count()})
