"""One run's settings: a flat frozen dataclass, read from `experiments/NAME.py` and from flags."""

import argparse
import dataclasses
import json
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxparse.classes import LabelOrder
from jaxparse.files import atomic_path

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SYNTHETIC = "synthetic"  # the data_dir of the built-in drawn faces

PRECISIONS = ("float32", "bfloat16", "float16")

# Fields that may differ between a run and its continuation: none changes what is learnt.
FREE_FIELDS = ("workdir", "num_workers", "log_every", "eval_every", "remat", "on_bad_data")


@dataclass(frozen=True)
class Config:
    """Settings of a run. Each field is a flag of `python -m jaxparse.train`."""

    # Data
    data_dir: str = "data/celebamask"
    """Folder with train/ and val/, or `synthetic` for the built-in drawn faces."""
    label_order: LabelOrder = "official"
    """How the masks in data_dir number the classes; the network's are always the official ones."""
    synthetic_train_count: int = 4000
    """Drawn faces to train on, when data_dir is `synthetic`."""
    synthetic_val_count: int = 200
    """Drawn faces to evaluate on, when data_dir is `synthetic`."""
    image_size: int = 512
    """Height and width of the network's input in pixels; pictures are resized to it."""
    batch_size: int = 4
    """Pictures per step, over all devices."""
    num_workers: int = 4
    """Threads that decode pictures."""
    on_bad_data: Literal["stop", "skip"] = "stop"
    """What a file that cannot be read does: `stop` ends the run; `skip` takes the next picture in
    its place (leaves it out of the evaluation) and says so once."""

    # Model
    backbone: str = "swin_t"
    """Backbone: swin_t, swin_b, swin_nano, resnet50_v1c, resnet101_v1c, resnet50 or resnet101."""
    head: str = "upernet"
    """Decode head: upernet, deeplabv3plus or psanet."""
    head_channels: int = 512
    """Channels of the decode head."""
    auxiliary_channels: int = 256
    """Channels of the auxiliary FCN head."""
    drop_path_rate: float = 0.3
    """Drop path of Swin's last block; it rises linearly from 0 at the first."""
    dropout_rate: float = 0.1
    """Share of whole channels dropped before each classifier."""

    # Loss
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's cross-entropy in the total loss."""

    # Optimiser
    optimizer: str = "adamw"
    """Optimiser: adamw (betas 0.9, 0.999) or sgd."""
    momentum: float = 0.9
    """Momentum of SGD."""
    learning_rate: float = 6e-5
    """Base rate, from which it falls to min_learning_rate (poly)."""
    min_learning_rate: float = 0.0
    """Rate after the last step."""
    poly_power: float = 1.0
    """Power of the decay; 1 is linear."""
    warmup_steps: int = 1500
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW: decoupled, without Swin's norms and relative position biases. SGD: added to every
    gradient."""

    # Run
    precision: str = "float32"
    """Type of the maps in training: float32, bfloat16, or float16 with dynamic loss scaling.
    Weights, norms, softmax and logits stay float32; evaluation is float32 throughout."""
    remat: bool = False
    """Keep only the inputs of each block for the gradient and compute the rest anew: less memory,
    about a third more time, the same result up to rounding."""
    accumulate_steps: int = 1
    """Parts into which a batch is cut, one after another, their gradients averaged: less memory for
    the same batch_size. Batch norm takes its statistics over each part alone."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, evaluated and saved beside them; 0: none.
    """
    steps: int = 160_000
    """Optimiser steps of the whole run."""
    eval_every: int = 16_000
    """Steps between evaluations, each followed by a checkpoint."""
    log_every: int = 50
    """Steps between log lines."""
    seed: int = 0
    """Seed of the initial weights, the order of the pictures and the dropout."""
    init_weights: str = "none"
    """Weights to start from: a .safetensors file, a run's folder (its best ones), or `none`."""
    workdir: str = ""
    """Folder of the run: config.json, metrics.jsonl, checkpoints; default runs/EXPERIMENT."""

    def __post_init__(self) -> None:
        counts = ("image_size", "batch_size", "num_workers", "steps", "eval_every", "log_every")
        for name in (*counts, "accumulate_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("drop_path_rate", "dropout_rate", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if self.precision not in PRECISIONS:
            raise ValueError(f"no precision {self.precision}; there are: {', '.join(PRECISIONS)}")
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"batch_size is {self.batch_size}, no multiple of accumulate_steps "
                f"{self.accumulate_steps}; give an accumulate_steps that divides it"
            )


def load_experiment(name: str) -> Config:
    """Config of an experiment: NAME of experiments/NAME.py, or the path of such a file.

    Raises ValueError, with the experiments there are, if there is none of that name.
    """
    path = Path(name) if name.endswith(".py") else EXPERIMENTS / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in EXPERIMENTS.glob("*.py")))
        raise ValueError(f"no experiment {name} ({path} is not a file); there are: {known}")
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, Config):
        raise ValueError(f"{path} must end in `config = Config(...)`")
    return config if config.workdir else dataclasses.replace(config, workdir=f"runs/{path.stem}")


Options = TypeVar("Options")


@dataclass(frozen=True)
class NoOptions:
    """No flags beside --exp and the fields of Config."""


def parse_arguments(
    prog: str, description: str, options: Options, args: list[str] | None = None
) -> tuple[str, Config, Options]:
    """Name, Config and `options`, a dataclass of further flags, from the command line.

    `--exp NAME`, whose fields are the other flags' defaults. Raises ValueError for an unknown
    experiment or a value out of range.
    """
    import tyro  # here, so that the workers that only read Config start faster

    @dataclass(frozen=True)
    class Arguments:
        exp: str
        """Experiment: NAME of experiments/NAME.py, or the path of such a file."""
        command: tyro.conf.OmitArgPrefixes[type(options)]
        config: tyro.conf.OmitArgPrefixes[Config]

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--exp", default=tyro.MISSING)
    exp = finder.parse_known_args(args)[0].exp
    config = Config() if exp is tyro.MISSING else load_experiment(exp)
    default = Arguments(exp, options, config)
    arguments = tyro.cli(Arguments, prog=prog, description=description, args=args, default=default)
    return arguments.exp, arguments.config, arguments.command


def parse_experiment(
    prog: str, description: str, args: list[str] | None = None
) -> tuple[str, Config]:
    """Name and Config of `parse_arguments`."""
    return parse_arguments(prog, description, NoOptions(), args)[:2]


def parse_config(prog: str, description: str, args: list[str] | None = None) -> Config:
    """The Config of `parse_experiment`."""
    return parse_experiment(prog, description, args)[1]


def save_config(config: Config, workdir: str | Path) -> None:
    """Writes the run's config.json."""
    with atomic_path(Path(workdir) / "config.json") as path:
        path.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read_config(workdir: str | Path) -> Config:
    """The config of the run in `workdir`. Raises ValueError if there is none."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is no run: it has no config.json; give a folder train made")
    try:
        return Config(**json.loads(path.read_text()))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a config of this version: {error}") from error


def override(config: Config, given: dict[str, Any]) -> Config:
    """The config with the fields that are given: those that are not None."""
    return dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})


def differing_fields(ours: Config, theirs: Config) -> dict[str, tuple[Any, Any]]:
    """Fields that change what is learnt and differ: name -> (ours, theirs)."""
    pairs = {
        field.name: (getattr(ours, field.name), getattr(theirs, field.name))
        for field in dataclasses.fields(Config)
        if field.name not in FREE_FIELDS
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def require_same_run(config: Config) -> None:
    """Raises ValueError, with the differing fields, if the workdir belongs to another run."""
    if not (Path(config.workdir) / "config.json").is_file():
        return
    differences = differing_fields(config, read_config(config.workdir))
    if differences:
        listed = ", ".join(f"{k} {there} (now {here})" for k, (here, there) in differences.items())
        raise ValueError(
            f"{config.workdir} belongs to a run with {listed}; "
            "give another --workdir, or the flags of that run to go on with it"
        )
