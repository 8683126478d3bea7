"""Weights of other packages -> this package's file, and back: `python -m jaxparse.convert_weights`.

The network is told by names and shapes. A segmentor is converted whole; an ImageNet network gives
the backbone, for any head. A file that does not fit exactly is refused (weights/conversion.py).
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("convert_weights")

import re
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from jaxparse import cli
from jaxparse.classes import Classes
from jaxparse.config import Config, load_experiment
from jaxparse.files import require_writable_file
from jaxparse.weights.conversion import Conversion, to_mmseg
from jaxparse.weights.files import (
    SHIPPED,
    flatten,
    is_backbone,
    is_ours,
    read_weights,
    save_weights,
)
from jaxparse.weights.find import convert_checkpoint, file_in, find_weights, load_network
from jaxparse.weights.foreign import INDEX, Weights, write_torch
from jaxparse.weights.hub import HubName, download, is_hub_name
from jaxparse.weights.names import BUFFERS, TIMM_WEIGHTS, default_weights, timm_name

PARTS = ("backbone", "decode_head", "auxiliary_head")


def conversion_table(conversion: Conversion) -> Table:
    """One row per part of the network: what was set, dropped, and randomly initialised."""

    def part_of(key: str) -> str:
        return key.split(".")[0] if key.startswith(PARTS) else "backbone"

    caption = "dropped: not needed; fresh: not in the file, randomly initialised"
    table = Table("part", "tensors", "numbers", "dropped", "fresh", caption=caption)
    for part in PARTS:
        sizes = [array.size for name, array in conversion.arrays.items() if part_of(name) == part]
        dropped = [key for key in conversion.dropped if part_of(key) == part]
        kinds = Counter(k.split(".")[-1] if re.search(BUFFERS, k) else k for k in dropped)
        shown = "\n".join(f"{count} {kind}" for kind, count in kinds.items())
        prefixes = [prefix for prefix in conversion.fresh if part_of(prefix) == part]
        if not (sizes or dropped or prefixes):
            continue
        fresh = "\n".join(prefix.removeprefix(f"{part}.") or "all" for prefix in prefixes)
        numbers = str(len(sizes)), f"{sum(sizes):,}"
        table.add_row(part, *numbers, Text(shown), Text(fresh))  # a file's names are no markup
    return table


class Checkpoint(NamedTuple):
    """A file to convert."""

    path: Path
    label: str  # its name for people
    stem: str  # of the file to write


def find_checkpoint(exp: str | None, config: Config | None, weights: str | None) -> Checkpoint:
    """The file to convert; one of the hub is downloaded unless it is cached."""
    if weights is None and config is None:
        raise ValueError("give --checkpoint FILE_OR_HUB_NAME, or --exp for timm's weights")
    weights = weights or default_weights(config)
    if weights is None:
        raise ValueError(f"timm has no ImageNet weights of {config.backbone}; give --weights FILE")
    path = find_weights(weights) if weights == SHIPPED.stem else Path(weights)
    if path.exists():
        file = path / file_in(path) if path.is_dir() else path
        return Checkpoint(file, weights, path.resolve().name)
    if model := timm_name(weights):
        weights = f"timm/{model}"
    elif not is_hub_name(weights):
        models = ", ".join(full.split(".")[0] for full in TIMM_WEIGHTS.values())
        raise ValueError(
            f"there is no file {weights}; --weights takes a file, a repository of the Hugging Face "
            f"hub (user/name), or one of timm's models {models}"
        )
    folder, file = download(weights, ("--exp", exp) if exp else ())
    named = HubName.of(weights)
    return Checkpoint(folder / file, weights, Path(named.file or named.repository).name)


def default_output(exp: str | None, stem: str, config: Config, whole: bool) -> Path:
    """The experiment's init_weights for a backbone; weights/NAME.safetensors for a segmentor.

    NAME is the experiment's or else the checkpoint's `stem`.
    """
    if exp and not whole and config.init_weights.endswith(".safetensors"):
        return Path(config.init_weights)
    name = Path(exp).stem if exp else stem
    suffix = r"([.](pth|pt|bin|ckpt|safetensors))?([.]index[.]json)?$"
    return Path(f"weights/{re.sub(suffix, '', name)}.safetensors")


def import_weights(
    exp: str | None,
    weights: str | None,
    output: Path | None = None,
    classes: Classes | None = None,
    fresh_classifier: bool = False,
    image_size: int | None = None,
    ema: bool = False,
    own_classes: bool = False,
) -> None:
    """Converts a file of another package, or a repository of the hub, to this package's file."""
    if output:
        require_writable_file(output)
    config = load_experiment(exp) if exp else None
    path, label, stem = find_checkpoint(exp, config, weights)
    if not path.name.endswith(INDEX) and is_ours(path):
        raise ValueError(f"{label} is of jaxparse already; give it to predict --weights")
    flags = classes, fresh_classifier, own_classes, image_size, ema
    conversion, held = convert_checkpoint(path, label, config, *flags)
    backbone, config = is_backbone(conversion.arrays), conversion.config
    output = output or default_output(exp, stem, config, whole=not backbone)
    if output.resolve() == path.resolve():
        raise ValueError(f"--output {output} is the file to convert; give another --output")
    origin = f"{conversion.naming}, {label if is_hub_name(label) else Path(label).name}"
    origin += ", moving average" if held.averaged else ""
    save_weights(output, conversion.arrays, config, origin, conversion.fresh)
    # Not through rich: it would wrap the lines, which people copy.
    print(f"{label}: {conversion.naming}")
    if choice := chosen(held):
        print(f"weights: {choice}")
    print(f"network: {described(conversion, config)}")
    Console().print(conversion_table(conversion))
    print(f"wrote {output}; next:")
    print(" ", next_command(exp, output, bool(conversion.fresh)))


def chosen(weights: Weights) -> str:
    """Which weights were taken of a file that holds a moving average; else nothing."""
    if weights.averaged:
        return f"the moving average ({weights.taken}), not {weights.left or 'plain: it has none'}"
    if weights.left:
        return f"the plain ones ({weights.taken}); --ema takes the moving average ({weights.left})"
    return ""


def described(conversion: Conversion, config: Config) -> str:
    """The network in words, and how it takes pictures and numbers classes."""
    if is_backbone(conversion.arrays):
        return config.backbone
    parameters = sum(array.size for array in conversion.arrays.values())
    filters = f"pictures at {config.image_size}x{config.image_size}, {config.resize_filter}"
    classes = f"classes {config.classes}"
    if conversion.classes.names != config.classes.names:
        classes += f", brought into its order from {conversion.classes}'s"
    classes += f", {conversion.guessed}" if conversion.guessed else ""
    return f"{config.backbone} + {config.head}, {parameters:,} numbers, {filters}; {classes}"


def next_command(exp: str | None, output: Path, fresh: bool) -> str:
    """The command that the weights are for."""
    if fresh:
        words = ("train", "--init-weights", output, "--exp", exp or "NAME", "--data-dir", "DIR")
    elif exp:
        words = ("evaluate", "--weights", output, "--exp", exp, "--data-dir", "DIR")
    else:
        words = ("predict", "--weights", output, "--input", "PICTURES", "--output", "MASKS")
    return cli.line_for_shell(*words)


def export_weights(exp: str | None, weights: str, output: Path | None = None) -> None:
    """Writes a weights file, or the best weights of a run's folder, as mmsegmentation's .pth."""
    config, params, batch_stats = load_network(weights, exp)
    state_dict = to_mmseg(flatten(params) | flatten(batch_stats), config)
    classes, palette = list(config.classes.names), list(map(list, config.classes.colours))
    meta = {
        "dataset_meta": {"classes": classes, "palette": palette},  # 1.x
        "CLASSES": classes,  # 0.x
        "PALETTE": palette,
    }
    output = output or Path(f"weights/{Path(exp or weights).stem}_mmseg.pth")
    write_torch(output, state_dict, meta)
    print(f"wrote {output}: {len(state_dict)} tensors; in mmsegmentation:")
    print(f"  mmseg.apis.init_model(CONFIG, {str(output)!r})")


def halve_weights(exp: str | None, weights: str, output: Path | None = None) -> None:
    """Writes a weights file, or the best weights of a run's folder, in 16 bits: half the size."""
    path = find_weights(weights)
    config, *_ = load_network(weights, exp)  # raises if they are of another network
    arrays, metadata = read_weights(path)
    output = output or Path(f"weights/{Path(exp or weights).stem}_16bit.safetensors")
    with np.errstate(over="ignore"):
        halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    if large := [name for name, half in halves.items() if not np.isfinite(half).all()]:
        raise ValueError(f"{path} holds values in {large[0]} that are too large for 16 bits")
    save_weights(output, halves, config, f"{metadata['source']}, in 16 bits")
    print(f"wrote {output}: {output.stat().st_size / 1e6:.1f} MB")


def convert_file(
    exp: str | None = None,
    weights: Positional[str | None] = None,
    output: Path | None = None,
    to: Literal["jaxparse", "16bit", "mmseg"] = "jaxparse",
    classes: Classes | None = None,
    fresh_classifier: bool = False,
    image_size: int | None = None,
    ema: bool = False,
    own_classes: bool = False,
) -> None:
    """Converts weights of other packages to jaxparse's file, or back.

    Args:
        exp: Experiment that defines the network: a name, or the path of a .py file. By default the
            network is the one that the file holds.
        weights: The file to convert (.safetensors, .pth, ...), a folder with one, a repository of
            the Hugging Face hub such as jonathandinu/face-parsing, or a timm model such as
            resnet50c; the latter two are downloaded. By default ImageNet-1K weights of the
            experiment's backbone: those of the extra lite0, lite1 or lite2 if it is installed, else
            timm's. With `--to 16bit` or `mmseg` what `predict --weights` takes.
        output: The file to write. By default the experiment's init_weights for an ImageNet file,
            weights/NAME.safetensors for a whole network; weights/NAME_16bit.safetensors or
            weights/NAME_mmseg.pth with `--to`.
        to: What to write: jaxparse's .safetensors; the same in 16 bits, half the size; or
            mmsegmentation's .pth, which needs PyTorch.
        classes: Table of the classes of the file's network; by default that of the names that the
            file states, or else that of its kind of network. The classes of celebamask in another
            order are brought into its order.
        fresh_classifier: Leave out the classifier, which may be of another number of classes: for
            weights to train from.
        image_size: Side in pixels at which the network takes pictures; by default 512, or what its
            kind takes, or the repository states.
        ema: Take the moving average of the weights from a file that holds one beside them.
        own_classes: Take the class names that the file states for a table of their own, where they
            are those of no known one.
    """
    if to == "jaxparse":
        flags = classes, fresh_classifier, image_size, ema, own_classes
        import_weights(exp, weights, output, *flags)
    elif weights is None:
        raise ValueError(f"--to {to} needs --weights FILE_OR_RUN")
    elif to == "16bit":
        halve_weights(exp, weights, output)
    else:
        export_weights(exp, weights, output)


def main() -> None:
    """Command line of `convert_file`."""
    cli.command(convert_file, "convert_weights", {"--weights": "", "--checkpoint": ""})
