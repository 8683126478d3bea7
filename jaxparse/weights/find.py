"""What users name as weights -> the network: a file, a run's folder, a name on the hub."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxparse import cli
from jaxparse.classes import CELEBAMASK
from jaxparse.config import Config, config_json, load_experiment, read_config, scored_in
from jaxparse.programs import remember
from jaxparse.weights.files import BEST_WEIGHTS, load_weights, network_fields
from jaxparse.weights.hub import fetch, is_hub_name


def find_weights(weights: str | Path) -> Path:
    """The file itself, the best weights of a run's folder, or those of a repository on the hub.

    The latter are downloaded, and converted, once. Raises ValueError if there are none.
    """
    path = Path(weights)
    if is_hub_name(str(weights)):
        return fetch(str(weights))
    if not path.is_dir():
        return path
    if not (path / BEST_WEIGHTS).is_file():
        raise ValueError(f"{path} has no {BEST_WEIGHTS} yet; train writes it when it evaluates")
    return path / BEST_WEIGHTS


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
    weights: str | Path, exp: str | None = None
) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    """Config, params and batch_stats of what `find_weights` takes.

    The Config is that of the run's config.json or of the file's metadata; `exp` names an experiment
    to take all but the classes from instead.
    """
    path = find_weights(weights)
    if exp:
        classes = network_fields(path).get("classes", CELEBAMASK)
        config = scored_in(load_experiment(exp), classes, None)
    else:
        config = read_config(weights) if Path(weights).is_dir() else config_of_weights(path)

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
    if path.suffix == ".safetensors":
        if not path.is_file():
            command = cli.line_for_shell("convert_weights", "--exp", exp, "--output", path)
            raise ValueError(f"there is no file {path}; make it with {command}; {scratch}")
        return path
    best = path / BEST_WEIGHTS
    if not best.is_file():
        fix = "train that run first, or give another RUN or FILE to --init-weights"
        raise ValueError(f"there is no {best}; {fix}; {scratch}")
    return best
