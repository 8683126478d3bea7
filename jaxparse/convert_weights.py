"""Weights of other packages -> this package's file, and back: `python -m jaxparse.convert_weights`.

A segmentor trained with mmsegmentation (0.x or 1.x) is converted whole, and back; an ImageNet
network of timm, Microsoft or OpenMMLab gives the backbone, for any head. A file whose names and
shapes are not exactly those of the network is refused.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxparse import cli
from jaxparse.classes import LABEL_ORDERS, NAMES, PALETTE, LabelOrder
from jaxparse.config import Config, load_experiment
from jaxparse.files import require_writable_file
from jaxparse.models import split_model, swin
from jaxparse.weights.files import (
    find_weights,
    flatten,
    load_weights,
    read_weights,
    require_match,
    save_weights,
)
from jaxparse.weights.foreign import download, read_checkpoint, write_torch
from jaxparse.weights.names import (
    BUFFERS,
    DROPPED,
    TIMM_WEIGHTS,
    default_weights,
    mmseg_naming,
    recognise,
    require_network,
    timm_name,
)
from jaxparse.weights.naming import (
    from_unfold_order,
    regroup,
    rename,
    rename_back,
    to_unfold_order,
)

PARTS = ("backbone", "decode_head", "auxiliary_head")


class Conversion(NamedTuple):
    """What became of a checkpoint."""

    naming: str
    arrays: dict[str, np.ndarray]  # by this package's names
    dropped: list[str]  # the checkpoint's names
    fresh: tuple[str, ...]  # prefixes of this package's names


def convert(path: str | Path, state_dict: Mapping[str, np.ndarray], config: Config) -> Conversion:
    """The arrays of a checkpoint for the network of `config`; `path` is for messages.

    Strict: raises ValueError unless every key is used or matches DROPPED, and every parameter and
    statistic is set, in its shape, or is one of the naming's `fresh` ones.
    """
    naming = recognise(path, state_dict)
    dropped = [key for key in state_dict if re.search(DROPPED, key)]
    used = state_dict.keys() - set(dropped)
    renamed = [rename(naming, key, state_dict[key]) for key in state_dict if key in used]
    arrays = dict(renamed)
    if len(arrays) < len(renamed):
        [(name, _)] = Counter(name for name, _ in renamed).most_common(1)
        raise ValueError(f"{path} has more than one array for {name}; save it with one")
    arrays = regroup(arrays, *naming.regrouped)
    require_network(path, arrays, config)
    _, params, batch_stats = split_model(config)
    needed = flatten(params) | flatten(batch_stats)
    needed = {k: v for k, v in needed.items() if not k.startswith(naming.fresh)}
    require_match(path, arrays, needed)
    if naming.unfolded:
        arrays |= {k: from_unfold_order(v) for k, v in arrays.items() if ".downsample." in k}
    return Conversion(naming.name, arrays, dropped, naming.fresh)


def to_mmseg(arrays: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """Arrays of the whole network of `config` -> mmsegmentation's state dict, buffers included."""
    naming = mmseg_naming(config)
    if naming.unfolded:
        merging = {k: to_unfold_order(v) for k, v in arrays.items() if ".downsample." in k}
        arrays = {**arrays, **merging}
    arrays = regroup(arrays, *naming.regrouped[::-1])
    state_dict = dict(rename_back(naming, name, array) for name, array in arrays.items())
    for key in list(state_dict):
        if key.endswith("running_var"):
            state_dict[key.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
        elif key.endswith("relative_position_bias_table"):
            state_dict[key.replace("bias_table", "index")] = swin.relative_position_index()
    return state_dict


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
        fresh = "\n".join(prefix.removeprefix(f"{part}.") or "all" for prefix in prefixes)
        numbers = str(len(sizes)), f"{sum(sizes):,}"
        table.add_row(part, *numbers, Text(shown), Text(fresh))  # a file's names are no markup
    return table


def find_checkpoint(exp: str, config: Config, weights: str | None) -> tuple[Path, str]:
    """The file to convert and its name for people; timm's is downloaded unless it is cached."""
    weights = weights or default_weights(config)
    if weights is None:
        raise ValueError(f"timm has no ImageNet weights of {config.backbone}; give --weights FILE")
    if Path(weights).is_file():
        return Path(weights), weights
    name = timm_name(weights)
    if name is None:
        models = ", ".join(full.split(".")[0] for full in TIMM_WEIGHTS.values())
        raise ValueError(
            f"there is no file {weights}; --weights takes a file, or one of timm's models {models}"
        )
    return download(name, cli.line_for_shell("convert_weights", "--exp", exp)), f"timm/{name}"


def default_output(exp: str, config: Config, whole: bool) -> Path:
    """The experiment's init_weights for a backbone; weights/NAME.safetensors for a segmentor."""
    if not whole and config.init_weights.endswith(".safetensors"):
        return Path(config.init_weights)
    return Path(f"weights/{Path(exp).stem}.safetensors")


def to_official_order(arrays: Mapping[str, np.ndarray], order: str) -> dict[str, np.ndarray]:
    """Arrays whose classifiers number the classes by `order` -> by the official order."""
    columns = np.argsort(LABEL_ORDERS[order])
    return {k: v[..., columns] if ".conv_seg." in k else v for k, v in arrays.items()}


def import_weights(
    exp: str,
    weights: str | None,
    output: Path | None = None,
    label_order: LabelOrder = "official",
) -> None:
    """Converts a file of another package, or a timm model by its name, to this package's file."""
    if output:
        require_writable_file(output)
    config = load_experiment(exp)
    path, label = find_checkpoint(exp, config, weights)
    conversion = convert(label, read_checkpoint(path), config)
    output = output or default_output(exp, config, whole=not conversion.fresh)
    if output.resolve() == path.resolve():
        raise ValueError(f"--output {output} is the file to convert; give another --output")
    origin = f"{conversion.naming}, {Path(label).name}"
    arrays = to_official_order(conversion.arrays, label_order)
    save_weights(output, arrays, config, origin, conversion.fresh)
    next_step = ("train", "--init-weights") if conversion.fresh else ("evaluate", "--weights")
    # Not through rich: it would wrap the lines, which people copy.
    print(f"{label}: {conversion.naming}")
    Console().print(conversion_table(conversion))
    print(f"wrote {output}; next:")
    words = (*next_step[1:], output, "--exp", exp, "--data-dir", "DIR")
    print(" ", cli.line_for_shell(next_step[0], *words))


def export_weights(exp: str, weights: str, output: Path | None = None) -> None:
    """Writes a weights file, or the best weights of a run's folder, as mmsegmentation's .pth."""
    config = load_experiment(exp)
    _, params, batch_stats = split_model(config)
    params, batch_stats = load_weights(find_weights(weights), config, params, batch_stats)
    state_dict = to_mmseg(flatten(params) | flatten(batch_stats), config)
    classes, palette = list(NAMES), [list(map(int, color)) for color in PALETTE]
    meta = {
        "dataset_meta": {"classes": classes, "palette": palette},  # 1.x
        "CLASSES": classes,  # 0.x
        "PALETTE": palette,
    }
    output = output or Path(f"weights/{Path(exp).stem}_mmseg.pth")
    write_torch(output, state_dict, meta)
    print(f"wrote {output}: {len(state_dict)} tensors; in mmsegmentation:")
    print(f"  mmseg.apis.init_model(CONFIG, {str(output)!r})")


def halve_weights(exp: str, weights: str, output: Path | None = None) -> None:
    """Writes a weights file, or the best weights of a run's folder, in 16 bits: half the size."""
    config, path = load_experiment(exp), find_weights(weights)
    arrays, metadata = read_weights(path)
    load_weights(path, config, *split_model(config)[1:])  # raises if they are of another network
    output = output or Path(f"weights/{Path(exp).stem}_16bit.safetensors")
    with np.errstate(over="ignore"):
        halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    if large := [name for name, half in halves.items() if not np.isfinite(half).all()]:
        raise ValueError(f"{path} holds values in {large[0]} that are too large for 16 bits")
    save_weights(output, halves, config, f"{metadata['source']}, in 16 bits")
    print(f"wrote {output}: {output.stat().st_size / 1e6:.1f} MB")


def convert_file(
    exp: str,
    weights: str | None = None,
    output: Path | None = None,
    to: Literal["jaxparse", "16bit", "mmseg"] = "jaxparse",
    label_order: LabelOrder = "official",
) -> None:
    """Converts weights of mmsegmentation, timm, Microsoft or OpenMMLab for an experiment, or back.

    Args:
        exp: Experiment that defines the network: a name, or the path of a .py file.
        weights: The file to convert: .safetensors, or .pth, which needs PyTorch; or the name of a
            timm model, such as resnet50c or resnet50c.gluon_in1k, which is downloaded. By default
            timm's ImageNet-1K weights of the backbone. With `--to 16bit` or `mmseg` a .safetensors
            of jaxparse, or a run's folder (its best weights).
        output: The file to write. By default the experiment's init_weights for an ImageNet file,
            weights/NAME.safetensors for a segmentor; weights/NAME_16bit.safetensors or
            weights/NAME_mmseg.pth with `--to`.
        to: What to write: jaxparse's .safetensors; the same in 16 bits, half the size; or
            mmsegmentation's .pth, which needs PyTorch.
        label_order: How the network of the file numbers the classes.
    """
    if to == "jaxparse":
        import_weights(exp, weights, output, label_order)
    elif weights is None:
        raise ValueError(f"--to {to} needs --weights FILE_OR_RUN")
    elif to == "16bit":
        halve_weights(exp, weights, output)
    else:
        export_weights(exp, weights, output)


def main() -> None:
    """Command line of `convert_file`."""
    cli.command(convert_file, "convert_weights", {"--checkpoint": "--weights"})


if __name__ == "__main__":
    cli.run(main)
