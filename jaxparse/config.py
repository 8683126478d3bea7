"""One run's settings: a flat frozen dataclass, read from an experiment's file and from flags."""

import argparse
import dataclasses
import json
import runpy
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxparse import cli
from jaxparse.classes import (
    CELEBAMASK,
    Classes,
    becomes,
    classes_json,
    load_classes,
    parse_classes,
)
from jaxparse.fields import LOSS_WEIGHTS, require_fields
from jaxparse.files import atomic_path, brief, read_json, reason

SYNTHETIC = "synthetic"  # the data_dir of the built-in drawn faces

Head = Literal[
    "upernet",
    "deeplabv3plus",
    "psanet",
    "segformer",
    "segformer_mmseg",
    "segface",
    "parsenet",
    "bisenet",
]
Filter = Literal["bilinear", "bicubic", "opencv"]
Optimizer = Literal["adamw", "sgd"]
Precision = Literal["float32", "bfloat16", "float16"]

# Fields that may change when a run is resumed: none affects what is learnt.
RESUMABLE_FIELDS = ("workdir", "num_workers", "log_every", "eval_every", "remat", "on_bad_data")
RESUMABLE_FIELDS += ("keep_evaluations",)
# And these may name the same pictures by another path, which data.identity checks.
DATA_PATHS = ("data_dir", "mirrored_masks")
TABLES = ("classes", "labels_are")  # fields that are a table of classes


@dataclass(frozen=True)
class Config:
    """Settings of a run. Each field is a flag of `python -m jaxparse.train`."""

    # Data
    data_dir: str = "data/celebamask"
    """Folder with train/ and val/, or `synthetic` for the built-in drawn faces."""
    classes: Classes = CELEBAMASK
    """Table of the classes that the network tells apart: celebamask, lapa, helen, zllrunning,
    facer, or a .json file."""
    labels_are: Classes | None = None
    """Table that the masks in data_dir are in, if it is another one: they are converted on
    reading. Drawn faces are always converted from celebamask."""
    synthetic_train_count: int = 4000
    """Drawn faces to train on, when data_dir is `synthetic`."""
    synthetic_val_count: int = 200
    """Drawn faces to evaluate on, when data_dir is `synthetic`."""
    mirrored_masks: str = "none"
    """List of masks whose left and right are exchanged, which is undone on reading: a text file
    with a picture's name, without suffix, on each line (`report` writes one), or `none`."""
    image_size: int = 512
    """Height and width of the network's input in pixels; pictures are resized to it."""
    resize_filter: Filter = "bilinear"
    """How pictures are resized: Pillow's bilinear or bicubic, which smooth what they shrink, or
    OpenCV's INTER_LINEAR, which does not."""
    image_mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    """Taken from red, green and blue in 0..255; the default is ImageNet's."""
    image_std: tuple[float, ...] = (58.395, 57.12, 57.375)
    """What they are then divided by; the default is ImageNet's."""
    batch_size: int = 4
    """Pictures per step, over all devices."""
    num_workers: int = 4
    """Threads that decode pictures."""
    repeat_threshold: float = 0.0
    """Pictures of rare classes more often (repeat factors): a picture with a class that is in the
    share f of all pictures is taken sqrt(repeat_threshold / f) times per epoch, if that is above 1;
    0 takes every picture once."""
    on_bad_data: Literal["stop", "skip"] = "stop"
    """When a file cannot be read: `stop` ends the run; `skip` warns once and trains on the next
    picture instead (evaluation leaves the file out)."""

    # Model
    backbone: str = "swin_t"
    """Backbone: swin_t, swin_s, swin_b, swin_b_torchvision, swin_nano, mit_b0 to mit_b5, mit_slim,
    farl_vit_b16, resnet50_v1c, resnet101_v1c, resnet18, resnet34, resnet50, resnet101,
    resnet_slim, parsenet, or efficientnet_lite0 to efficientnet_lite2."""
    head: Head = "upernet"
    """Decode head."""
    head_channels: int = 512
    """Channels of the decode head; bisenet has its own."""
    auxiliary_channels: int = 256
    """Channels of the auxiliary FCN head; 0: there is none. bisenet has two of its own."""
    align_corners: bool = False
    """Resize logits so that the corner pixels' centres meet, as BiSeNet does."""
    drop_path_rate: float = 0.3
    """Drop path of a transformer's last block; it rises linearly from 0 at the first."""
    dropout_rate: float = 0.1
    """Share of whole channels dropped before each classifier."""

    # Augmentation of the training pictures
    mirror_probability: float = 0.0
    """Share of the pictures that are mirrored, with the classes' left and right exchanged."""
    rotation_probability: float = 0.0
    """Share of the pictures that are rotated about their centre."""
    rotation_degrees: float = 25.0
    """Largest rotation, either way."""
    scale_min: float = 1.0
    """Smallest scale; a picture below 1 is placed anywhere in the frame."""
    scale_max: float = 1.0
    """Largest scale; of a picture above 1 any part that fills the frame is taken."""
    translation: float = 0.0
    """Largest further shift down or across, either way, as a share of the side."""
    brightness: float = 0.0
    """Largest number added to or taken from colours of 0..255, in half of the pictures."""
    contrast: float = 0.0
    """Colours times 1 - contrast to 1 + contrast, in half of the pictures."""
    saturation: float = 0.0
    """HSV saturation times 1 - saturation to 1 + saturation, in half of the pictures."""
    hue: float = 0.0
    """Largest turn of the HSV hue in degrees, either way, in half of the pictures."""
    grey_probability: float = 0.0
    """Share of the pictures that lose their colours."""
    blur_probability: float = 0.0
    """Share of the pictures that are blurred."""
    blur_sigma: float = 1.0
    """Largest standard deviation of the Gaussian blur in pixels; the smallest is 0."""
    cutout_probability: float = 0.0
    """Share of the pictures in which a square is black."""
    cutout_size: float = 0.25
    """Side of that square as a share of the picture's; the border may cut it off."""
    cutout_labels: Literal["ignore", "keep"] = "ignore"
    """Labels in the square: 255, or those of what it covers."""

    compose_probability: float = 0.0
    """Share of the pictures whose people, turned by up to 45° and scaled by 0.3 to 1.25, stand
    before another background; the rest is as the other fields say."""
    paste_probability: float = 0.0
    """Share of the pictures that get the glasses, hat, earrings and necklace of the next one in
    the batch (copy-paste)."""

    # Loss: of each head the sum of the terms that have a weight
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss in the total loss."""
    cross_entropy_weight: float = 1.0
    """Weight of cross-entropy."""
    cross_entropy_divisor: Literal["pixels", "valid", "weights", "kept"] = "pixels"
    """What the sum of the pixels' cross-entropy is divided by: the number of pixels, ignored ones
    included (mmsegmentation 0.x); of valid pixels; the sum of their weights (mmsegmentation 1.x);
    or the number of pixels that OHEM keeps (zllrunning)."""
    class_weights: tuple[float, ...] = ()
    """Weights of the classes in cross-entropy, one for each; none: those of the table `classes`, by
    default all 1."""
    label_smoothing: float = 0.0
    """Share of the target that cross-entropy spreads evenly over all classes."""
    boundary_weight: float = 0.0
    """What a pixel near another class counts more in cross-entropy; 1 doubles it."""
    boundary_width: int = 3
    """Rows and columns from a pixel to another class, at most, for it to be near."""
    ohem_min_kept: int = 0
    """OHEM: cross-entropy of the hardest pixels alone, at least so many per picture; 0 is off."""
    ohem_threshold: float = 0.0
    """OHEM also keeps the pixels whose class has a probability below this."""
    lovasz_weight: float = 0.0
    """Weight of Lovász-softmax, over the classes present."""
    lovasz_per_picture: bool = False
    """Lovász-softmax of each picture, rather than of all pixels of the batch together."""
    lovasz_stride: int = 1
    """Lovász-softmax on every so many-th row and column: 2 takes a quarter of the time."""
    dice_weight: float = 0.0
    """Weight of the Dice loss, one of all classes together per picture."""
    dice_per_class: bool = False
    """Dice loss of each class over the batch: rare classes weigh as much as the others."""
    focal_weight: float = 0.0
    """Weight of the sigmoid focal loss."""

    # Optimiser
    optimizer: Optimizer = "adamw"
    """Optimiser: AdamW (betas 0.9, 0.999) or SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    learning_rate: float = 6e-5
    """Base rate, from which it decays to min_learning_rate (poly)."""
    backbone_rate: float = 1.0
    """Factor of the rate for the backbone: below 1 where it is pretrained and the head is not."""
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
    precision: Precision = "float32"
    """Type of the feature maps in training; float16 scales the loss dynamically. Weights, norms,
    softmax and logits stay float32; evaluation is float32 throughout."""
    remat: bool = False
    """Gradient checkpointing: store only each block's inputs and recompute the rest in the backward
    pass. Less memory, about a third more time, the same result up to rounding."""
    accumulate_steps: int = 1
    """Gradient accumulation: split each batch into this many parts, run one after another, and
    average their gradients. Less memory for the same batch_size; batch norm sees one part at a
    time."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, which is evaluated and saved as well; 0
    keeps none."""
    steps: int = 160_000
    """Optimiser steps of the whole run."""
    eval_every: int = 16_000
    """Steps between evaluations, each followed by a checkpoint."""
    keep_evaluations: int = 0
    """Evaluations whose weights are kept, the newest ones, as evaluations/STEP.safetensors; for
    `jaxparse.average`."""
    log_every: int = 50
    """Steps between log lines."""
    seed: int = 0
    """Seed of the random initialisation, the order of the pictures, their augmentation and the
    dropout."""
    init_weights: str = "none"
    """Weights to start from: a .safetensors file, a run's folder (its best weights) or what else
    `predict --weights` takes, or `none` to train from scratch. Of a network of other classes, those
    of the same names are taken over."""
    fresh_classifier: bool = False
    """Start the classifiers from random initialisation, whatever init_weights holds."""
    workdir: str = ""
    """Folder of the run: config.json, metrics.jsonl, checkpoints; default runs/EXPERIMENT."""

    def __post_init__(self) -> None:
        for name in TABLES:
            if isinstance(table := getattr(self, name), str | Path):
                try:
                    object.__setattr__(self, name, load_classes(table))
                except ValueError as error:
                    raise ValueError(f"{name} is {brief(repr(table))}: {error}") from error
        require_fields(self)
        if self.labels_are:
            becomes(self.labels_are, self.classes)  # raises if it cannot
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"batch_size is {self.batch_size}, which is not a multiple of accumulate_steps "
                f"({self.accumulate_steps}); give an accumulate_steps that divides it"
            )
        if not any(getattr(self, name) for name in LOSS_WEIGHTS):
            raise ValueError(f"{', '.join(LOSS_WEIGHTS)} are all 0; give one of them a weight")
        if self.ohem_threshold and not self.ohem_min_kept:
            raise ValueError(
                f"ohem_threshold is {self.ohem_threshold} and ohem_min_kept is 0, which turns OHEM "
                "off; give an ohem_min_kept of at least 1 (pixels per picture, e.g. 100000)"
            )
        if self.compose_probability and "background" not in self.classes.names:
            raise ValueError(
                f"compose_probability needs a class background, and {self.classes} has none; "
                "give --compose-probability 0"
            )
        if self.class_weights and len(self.class_weights) != len(self.classes):
            raise ValueError(
                f"class_weights are {len(self.class_weights)} and {self.classes} has "
                f"{len(self.classes)} classes; give one for each after --class-weights, or none"
            )
        if self.scale_min > self.scale_max:
            raise ValueError(
                f"scale_min is {self.scale_min}, above scale_max ({self.scale_max}); give both"
            )


def scored_in(config: Config, classes: Classes | None, labels_are: Classes | None) -> Config:
    """The config of the same pictures with masks of `classes`, read from the table `labels_are`.

    By default those of the network, and the table that the masks of its run were in.
    """
    labels_are = labels_are or config.labels_are or config.classes
    tables = {"classes": classes or config.classes, "labels_are": labels_are}
    return dataclasses.replace(config, **tables, class_weights=())


def loss_weights(config: Config) -> tuple[float, ...]:
    """The weights of the classes in cross-entropy; none are all 1."""
    return config.class_weights or config.classes.weights


def config_json(config: Config, names: Iterable[str] | None = None) -> dict[str, Any]:
    """The fields, or those of these names, for a JSON file, which `config_from` reads."""
    names = names or [field.name for field in dataclasses.fields(config)]
    values = {name: getattr(config, name) for name in names}
    return {k: classes_json(v) if isinstance(v, Classes) else v for k, v in values.items()}


def config_from(fields: object, path: str | Path) -> Config:
    """The Config of the fields that the file at `path` holds, which errors name."""
    if not isinstance(fields, dict):
        raise ValueError(f"{path} does not hold the fields of a config")
    fields, order = dict(fields), fields.get("label_order", "official")
    if fields.pop("label_order", None) and order != "official":  # of older versions
        fields["labels_are"] = classes_json(load_classes(str(order)))
    tables = [name for name in TABLES if fields.get(name) is not None]
    fields |= {name: parse_classes(fields[name], name, path) for name in tables}
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(Config)}:
        names = ", ".join(map(brief, sorted(unknown, key=str)[:3]))
        raise ValueError(f"{path} has unknown fields ({names}); a newer jaxparse wrote it: upgrade")
    try:
        # JSON has no tuples: it keeps them as lists.
        return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def experiment_files() -> dict[str, Path]:
    """Name of each experiment -> its file; those in ./experiments before those of the package."""
    try:
        shipped = [Path(str(item)) for item in resources.files("jaxparse.experiments").iterdir()]
    except ModuleNotFoundError:  # a checkout that is not installed
        shipped = []
    files = [path for path in shipped if path.suffix == ".py"] + [*Path("experiments").glob("*.py")]
    return {path.stem: path for path in files if path.stem != "__init__"}


def load_experiment(name: str) -> Config:
    """The Config of an experiment: its name, or the path of a file like experiments/swin_b.py.

    Raises ValueError, listing the experiments, if there is none of that name, and naming the line
    of a file that cannot be run.
    """
    files = experiment_files()
    path = Path(name) if name.endswith(".py") else files.get(name)
    if path is None or not path.is_file():
        known = ", ".join(sorted(files))
        raise ValueError(f"there is no experiment {name}; give the path of a .py file or: {known}")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:  # it may hold anything
        where = f"line {line}: " if (line := _line_of(path, error)) else ""
        raise ValueError(
            f"{path} cannot be run ({where}{type(error).__name__}: {reason(error)}); it must end "
            "in `config = Config(...)`"
        ) from error
    if not isinstance(config, Config):
        raise ValueError(f"{path} must end in `config = Config(...)`")
    return config if config.workdir else dataclasses.replace(config, workdir=f"runs/{path.stem}")


def _line_of(path: Path, error: Exception) -> int | None:
    """The line of the file that the error comes from."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in frames if frame.filename == str(path)), None)


Options = TypeVar("Options")


def parse_arguments(
    prog: str, description: str, options: Options, args: list[str] | None = None
) -> tuple[str, Config, Options]:
    """Name, Config and `options`, a dataclass of further flags, from the command line.

    The experiment that --exp names gives the other flags' defaults. Raises ValueError for an
    unknown experiment or a value out of range.
    """
    import tyro  # here: loader workers read Config, and tyro takes a fifth of a second

    @dataclass(frozen=True)
    class Arguments:
        exp: str
        """Experiment: a name (swin_b, quickstart, ...) or the path of a .py file."""
        further: tyro.conf.OmitArgPrefixes[type(options)]
        config: tyro.conf.OmitArgPrefixes[Config]

    args = sys.argv[1:] if args is None else args
    if args and not args[0].startswith("-"):  # train quickstart
        args = ["--exp", *args]
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--exp", default=tyro.MISSING)
    exp = finder.parse_known_args(args)[0].exp
    config = Config() if exp is tyro.MISSING else load_experiment(exp)
    default = Arguments(exp, options, config)
    arguments = tyro.cli(
        Arguments,
        prog=prog,
        description=description,
        args=args,
        default=default,
        registry=cli.flag_types(),
    )
    return arguments.exp, arguments.config, arguments.further


def save_config(config: Config, workdir: str | Path) -> None:
    """Writes the run's config.json."""
    with atomic_path(Path(workdir) / "config.json") as path:
        path.write_text(json.dumps(config_json(config), indent=2) + "\n")


def read_config(workdir: str | Path) -> Config:
    """The config of the run in `workdir`. Raises ValueError if there is none."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{workdir} is not a run folder (no config.json); give one that jaxparse.train made"
        )
    return config_from(read_json(path), path)


def override(config: Config, given: dict[str, Any]) -> Config:
    """The config with the fields that are given: those that are not None."""
    return dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})


def require_same_run(config: Config) -> None:
    """Raises ValueError, listing the fields that differ, if the workdir belongs to another run."""
    if not (Path(config.workdir) / "config.json").is_file():
        return
    theirs = read_config(config.workdir)
    names = [field.name for field in dataclasses.fields(Config)]
    names = [name for name in names if name not in (*RESUMABLE_FIELDS, *DATA_PATHS)]
    pairs = [(name, getattr(theirs, name), getattr(config, name)) for name in names]
    differing = [f"{name} {there} (now {here})" for name, there, here in pairs if there != here]
    if differing:
        raise ValueError(
            f"{config.workdir} belongs to a run with {', '.join(differing)}; give that run's "
            "flags to resume it, or start a new run from its weights: another --workdir, "
            f"--init-weights {config.workdir}"
        )
