"""What users name as weights -> the network: a file, a run's folder, a repository, a name."""

import hashlib
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, Classes
from jaxparse.config import Config, config_json, load_experiment, read_config, scored_in
from jaxparse.programs import remember
from jaxparse.weights.files import (
    BEST_WEIGHTS,
    HUB_FILE,
    SHIPPED,
    is_backbone,
    is_ours,
    load_weights,
    network_fields,
    read_metadata,
    save_weights,
)
from jaxparse.weights.foreign import INDEX, Weights, read_checkpoint
from jaxparse.weights.hub import (
    ASSETS,
    SUFFIXES,
    HubName,
    download,
    files_in,
    is_hub_name,
    pick,
    weights_among,
)
from jaxparse.weights.stated import names_beside, preprocessing_beside

GUESSED = ": classes "  # in the origin of what was converted from a file that names none

if TYPE_CHECKING:
    from jaxparse.weights.conversion import Conversion


def find_weights(weights: str | Path | None) -> Path:
    """This package's file for what a user names as weights.

    That is the file itself; the best weights of a run's folder; those of another folder, such as a
    clone of a repository; the network that comes with the package, by its name or by None; or those
    of a repository on the Hugging Face hub. What lies here comes before names. A folder or a
    repository of another package is converted once, into the hub's cache.

    Raises ValueError for a folder or a repository without weights, and for no name; files are not
    looked at.
    """
    if weights == "":  # an unset variable of a shell, which would be the folder here
        raise ValueError(f"the name of the weights is empty; give a file, or {SHIPPED.stem}")
    path = Path(SHIPPED if weights is None else weights)
    if run := run_of(path):
        return run / BEST_WEIGHTS
    if path.is_dir():
        checkpoint = path / file_in(path)
        return _converted(checkpoint, str(path), f"{ASSETS}_folders", path.name, _stamp(checkpoint))
    if path.exists():
        return path
    if str(weights) == SHIPPED.stem:
        return SHIPPED
    return fetch(str(weights)) if is_hub_name(str(weights)) else path


def run_of(weights: str | Path | None) -> Path | None:
    """The folder of the run whose best weights are named; None for other weights."""
    path = Path(weights or SHIPPED)
    return path if (path / BEST_WEIGHTS).is_file() else None


def file_in(folder: Path) -> str:
    """The path in the folder of its weights: of a run, the best.

    Raises ValueError if none or several come into question.
    """
    files = files_in(folder)
    if BEST_WEIGHTS in files:
        return BEST_WEIGHTS
    if not weights_among(files):
        raise ValueError(
            f"{folder} has no {BEST_WEIGHTS} yet, which train writes when it evaluates, nor other "
            "weights; give a run, a file, or the folder of a repository"
        )
    return pick(str(folder), files)


def fetch(name: str) -> Path:
    """The weights of a repository as a file of this package.

    Raises ValueError if the repository cannot be reached or holds no network that is known.
    """
    folder, file = download(name)
    return _converted(
        folder / file, name, ASSETS, HubName.of(name).repository, f"{folder.name}/{file}"
    )


def _stamp(checkpoint: Path) -> str:
    """What changes with a file of weights, and with what lies beside it."""
    beside = (p for p in checkpoint.parent.iterdir() if p.suffix in (".json", *SUFFIXES))
    states = ((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(beside))
    return hashlib.sha256(repr((checkpoint.resolve(), *states)).encode()).hexdigest()[:32]


def _converted(checkpoint: Path, label: str, *place: str) -> Path:
    """The checkpoint as a file of this package; `place` is its library, name and version in the
    hub's cache of what is derived."""
    from huggingface_hub import cached_assets_path

    if not checkpoint.name.endswith(INDEX) and is_ours(checkpoint):
        return checkpoint
    path = cached_assets_path(*place) / HUB_FILE
    if not path.is_file():
        conversion, _ = convert_checkpoint(checkpoint, label)
        origin = f"{conversion.naming}, {Path(label).name if Path(label).exists() else label}"
        if conversion.guessed:
            origin += f"{GUESSED}{conversion.classes}, {conversion.guessed}"
        save_weights(path, conversion.arrays, conversion.config, origin, conversion.fresh)
    _, guessed, classes = read_metadata(path)["source"].partition(GUESSED)
    if guessed:  # said each time
        warnings.warn(f"{label}{guessed}{classes}", stacklevel=2)
    return path


def convert_checkpoint(
    checkpoint: Path,
    label: str,
    config: Config | None = None,
    classes: Classes | None = None,
    fresh_classifier: bool = False,
    own_classes: bool = False,
    image_size: int | None = None,
    ema: bool = False,
) -> "tuple[Conversion, Weights]":
    """A file of another package, called `label` in messages, with what is stated beside it.

    The other arguments are those of `convert`, `preprocessing_beside` and `read_checkpoint`.
    Raises ValueError as they do.
    """
    from jaxparse.weights.conversion import convert, require_preprocessing  # here: they need flax

    held = read_checkpoint(checkpoint, ema)
    names = held.classes or names_beside(checkpoint)
    conversion = convert(label, held.arrays, config, classes, fresh_classifier, names, own_classes)
    stated: dict[str, Any] = {}
    if not is_backbone(conversion.arrays):
        stated = preprocessing_beside(checkpoint, label, image_size)
    if config:
        stated.pop("image_size", None)  # any size will do
        require_preprocessing(label, stated, config)
    stated |= {"image_size": image_size} if image_size else {}
    return conversion._replace(config=replace(conversion.config, **stated)), held


def config_of_weights(path: str | Path) -> Config:
    """A Config of the network whose weights the file holds, all other fields the defaults.

    Raises ValueError for a backbone-only file.
    """
    fields = network_fields(path)
    if "head_channels" not in fields:
        raise ValueError(
            f"{path} contains only a backbone; train from it first (train --init-weights {path})"
        )
    return Config(**fields)


def load_network(
    weights: str | Path | None, exp: str | None = None
) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    """Config, params and batch_stats of what `find_weights` takes.

    The Config is that of the run's config.json or of the file's metadata; `exp` names an experiment
    to take all but the classes from instead.
    """
    path, run = find_weights(weights), run_of(weights)
    if exp:
        classes = network_fields(path).get("classes", CELEBAMASK)
        config = scored_in(load_experiment(exp), classes, None)
    else:
        config = read_config(run) if run else config_of_weights(path)

    def shapes() -> list[dict[str, Any]]:
        from jaxparse.models import split_model  # here: it needs flax, the remembered ones do not

        try:
            return list(split_model(config)[1:])
        except ValueError as error:  # a backbone of another version
            raise ValueError(f"{weights}: {error}") from error

    about = config_json(config)
    with suppress(ValueError):  # an experiment may have changed its own backbone meanwhile
        return config, *load_weights(path, config, *remember("shapes", (about,), shapes))
    return config, *load_weights(path, config, *shapes())


def find_init_weights(config: Config, exp: str) -> Path | None:
    """The file that `config.init_weights` names, None to train from scratch.

    If there is no such file, raises ValueError with the command that makes it.
    """
    if config.init_weights == "none":
        return None
    path, scratch = Path(config.init_weights), "--init-weights none trains from scratch"
    if not (found := find_weights(config.init_weights)).is_file():
        fix = "train that run first, or give another RUN or FILE to --init-weights"
        if path.suffix == ".safetensors":
            command = cli.line_for_shell("convert_weights", "--exp", exp, "--output", path)
            fix = f"make it with {command}"
        raise ValueError(f"there is no file or run {path}; {fix}; {scratch}")
    return found
