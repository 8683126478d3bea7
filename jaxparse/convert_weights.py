"""Weights of other packages -> this package's file: `python -m jaxparse.convert_weights`.

A segmentor trained with mmsegmentation (0.x or 1.x) is converted whole, an ImageNet Swin of timm or
Microsoft gives the backbone. Conversion is a table of renames and the transposes to HWIO and
[in, out]; Microsoft and mmsegmentation put a stage's downsampling at the end of the stage before.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open

from jaxparse import cli
from jaxparse.checkpoint import flatten, require_match, save_weights
from jaxparse.config import Config, load_experiment
from jaxparse.models import split_model
from jaxparse.models.swin import SIZES

PARTS = ("backbone", "decode_head", "auxiliary_head")

# Classes and functions that the logs in a training checkpoint of mmengine refer to. None of them
# is run: `Ignored` stands in for all.
IGNORED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # HistoryBuffer pickles its methods as getattr(HistoryBuffer, name)
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{c}.multiarray.{f}" for c in ("core", "_core") for f in ("_reconstruct", "scalar")),
)


class Ignored:
    """Takes the place of an object of a checkpoint that holds no weights, and keeps nothing."""

    def __new__(cls, *args: object) -> "Ignored":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


class Source(NamedTuple):
    """A kind of checkpoint."""

    name: str
    markers: tuple[str, ...]  # keys that all such files have, and no others
    renames: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]  # re.sub, in order
    dropped: str  # pattern of keys that nothing here needs
    fresh: tuple[str, ...]  # prefixes of the parameters that such a file has not
    unfolded: bool  # patch merging takes its four neighbours in the order of torch's unfold


def _next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _stem(match: re.Match[str]) -> str:
    """Of a Sequential of three times convolution, norm and ReLU."""
    index = int(match[1])
    return f"stem.{index // 3}.{('conv', 'bn')[index % 3]}."


# Computed from the sizes here; batch norm's momentum is constant.
BUFFERS = r"(relative_position_index|attn_mask|num_batches_tracked)$"
MMSEG = Source(
    name="mmsegmentation Swin segmentor",
    markers=("backbone.patch_embed.projection.bias",),
    renames=(
        (r"patch_embed\.projection\.", "patch_embed.proj."),
        (r"stages\.(\d)\.downsample", _next_stage),
        (r"^backbone\.stages\.", "backbone.layers."),
        (r"attn\.w_msa\.", "attn."),
        (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
        (r"ffn\.layers\.1\.", "mlp.fc2."),
        (r"psp_modules\.(\d)\.1\.", r"psp_modules.\1."),
        (r"\.running_(mean|var)$", r".\1"),
    ),
    dropped=BUFFERS,
    fresh=(),
    unfolded=True,
)
MMSEG_RESNET = Source(
    name="mmsegmentation ResNetV1c segmentor",
    markers=("backbone.stem.0.weight",),
    renames=(
        (r"stem\.(\d)\.", _stem),
        (r"image_pool\.1\.", "image_pool."),
        (r"\.running_(mean|var)$", r".\1"),
    ),
    dropped=BUFFERS,
    fresh=(),
    unfolded=False,
)
TIMM = Source(
    name="timm ImageNet Swin",
    markers=("patch_embed.proj.bias", "layers.3.downsample.norm.bias"),
    renames=((r"^", "backbone."),),
    dropped=rf"{BUFFERS}|^(norm|head)\.",
    fresh=("backbone.norm0.", "backbone.norm1.", "backbone.norm2.", "backbone.norm3.")
    + ("decode_head.", "auxiliary_head."),
    unfolded=False,
)
MICROSOFT = TIMM._replace(
    name="Microsoft ImageNet Swin",
    markers=("patch_embed.proj.bias", "layers.0.downsample.norm.bias"),
    renames=(*TIMM.renames, (r"layers\.(\d)\.downsample", _next_stage)),
)
SOURCES = (MMSEG, MMSEG_RESNET, TIMM, MICROSOFT)
ACCEPTED = f"accepted: {', '.join(source.name for source in SOURCES)}"


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Arrays, all float32, by the names that they have in a .safetensors or a torch file.

    Raises ValueError for a file that is missing, broken, without weights or wants to run code.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; --checkpoint takes the file to convert")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    return {name.removeprefix("module."): array for name, array in read(path).items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name).astype(np.float32) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file or is cut short: {error}") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        fix = "pip install 'jaxparse[torch]', or give a .safetensors file"
        raise ValueError(f"{path} needs PyTorch to be read: {fix}") from error
    stand_ins = torch.serialization.safe_globals([(Ignored, name) for name in IGNORED])
    try:
        with stand_ins, warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle fails in any way there is
        foreign = re.search(r"GLOBAL (\S+) (was not|whose)", str(error))
        if foreign:
            reason = f"it asks for {foreign[1]}, which may run code"
            raise ValueError(f"{path} is refused: {reason}; {ACCEPTED}") from error
        # Only the first sentence: torch goes on to advise running the code.
        reason = re.split(r"\. |\n", str(error).split("WeightsUnpickler error: ")[-1])[0]
        reason = reason or type(error).__name__
        raise ValueError(f"{path} is no torch checkpoint or is cut short: {reason}") from error
    weights = _unwrap(checkpoint)
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path} is not the checkpoint of a network; {ACCEPTED}")
    return {str(key): value.detach().float().numpy() for key, value in weights.items()}


def _unwrap(checkpoint: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """The state dict in what torch.load gave; empty if that is no dict."""
    for key in ("state_dict", "model"):
        if isinstance(checkpoint, Mapping) and key in checkpoint:
            checkpoint = checkpoint[key]
    return checkpoint if isinstance(checkpoint, Mapping) else {}


def recognise(path: Path, names: Mapping[str, Any]) -> Source:
    """The kind of checkpoint that has these names. Raises ValueError if there is none."""
    for source in SOURCES:
        if all(marker in names for marker in source.markers):
            return source
    raise ValueError(f"{path} holds no network that is known here; {ACCEPTED}")


def rename(source: Source, key: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Name and array in this package's layout, but for the order of patch merging."""
    for pattern, replacement in source.renames:
        key = re.sub(pattern, replacement, key)
    if key.endswith(".weight"):
        key = key.removesuffix("weight") + ("kernel" if array.ndim > 1 else "scale")
    if key.endswith(".kernel"):
        # OIHW -> HWIO, [out, in] -> [in, out]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return key, array


def from_unfold_order(array: np.ndarray) -> np.ndarray:
    """[4C, ...] indexed channel, row, column as torch's unfold does -> column, row, channel."""
    neighbours = array.reshape(-1, 2, 2, *array.shape[1:])  # C row column
    return neighbours.swapaxes(0, 2).reshape(array.shape)


def require_size(path: Path, arrays: Mapping[str, np.ndarray], config: Config) -> None:
    """Raises ValueError, naming the Swin that `arrays` is, if `config` has another one."""
    if config.backbone.startswith("resnet"):
        return
    embed_dim = arrays["backbone.patch_embed.proj.bias"].size
    matches = [re.match(r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.", name) for name in arrays]
    blocks = {match.groups() for match in matches if match}
    depths = tuple(count for _, count in sorted(Counter(stage for stage, _ in blocks).items()))
    names = [n for n, size in SIZES.items() if (size.embed_dim, size.depths) == (embed_dim, depths)]
    if config.backbone not in names:
        name = names[0] if names else "a Swin of a size unknown here"
        size = f"embed_dim {embed_dim}, depths {' '.join(map(str, depths))}"
        raise ValueError(f"{path} holds {name} ({size}), not {config.backbone}; check --exp")


class Conversion(NamedTuple):
    """What became of a checkpoint."""

    source: str
    arrays: dict[str, np.ndarray]  # by this package's names
    dropped: list[str]  # the checkpoint's names
    fresh: tuple[str, ...]  # prefixes of this package's names


def convert(path: Path, state_dict: Mapping[str, np.ndarray], config: Config) -> Conversion:
    """The arrays of a checkpoint as the network of `config` takes them; `path` is for messages.

    Strict: raises ValueError unless every key is used or knowingly dropped, and every parameter
    and statistic is set, in its shape, or knowingly left to noise.
    """
    source = recognise(path, state_dict)
    dropped = [key for key in state_dict if re.search(source.dropped, key)]
    used = state_dict.keys() - set(dropped)
    arrays = dict(rename(source, key, state_dict[key]) for key in state_dict if key in used)
    if len(arrays) < len(used):
        raise ValueError(f"{path} has two names for one parameter; {ACCEPTED}")
    require_size(path, arrays, config)
    _, params, batch_stats = split_model(config)
    wanted = flatten(params) | flatten(batch_stats)
    wanted = {k: v for k, v in wanted.items() if not k.startswith(source.fresh)}
    require_match(path, arrays, wanted)
    if source.unfolded:
        merging = {k: from_unfold_order(v) for k, v in arrays.items() if ".downsample." in k}
        arrays |= merging
    return Conversion(source.name, arrays, dropped, source.fresh)


def conversion_table(conversion: Conversion) -> Table:
    """One row per part of the network: what was set, dropped and left to noise."""

    def part_of(key: str) -> str:
        return key.split(".")[0] if key.startswith(PARTS) else "backbone"

    caption = "dropped: not needed; fresh: not in the file, starts from noise"
    table = Table("part", "tensors", "numbers", "dropped", "fresh", caption=caption)
    for part in PARTS:
        sizes = [array.size for name, array in conversion.arrays.items() if part_of(name) == part]
        dropped = [key for key in conversion.dropped if part_of(key) == part]
        kinds = Counter(k.split(".")[-1] if re.search(BUFFERS, k) else k for k in dropped)
        shown = "\n".join(f"{count} {kind}" for kind, count in kinds.items())
        prefixes = [prefix for prefix in conversion.fresh if part_of(prefix) == part]
        fresh = "\n".join(prefix.removeprefix(f"{part}.") or "all" for prefix in prefixes)
        table.add_row(part, str(len(sizes)), f"{sum(sizes):,}", shown, fresh)
    return table


def convert_file(exp: str, checkpoint: Path, output: Path | None = None) -> None:
    """Converts weights of mmsegmentation, timm or Microsoft's Swin for an experiment.

    Args:
        exp: Experiment whose network the file holds: NAME of experiments/NAME.py, or a path.
        checkpoint: The file to convert: .safetensors, or .pth, which needs PyTorch.
        output: The .safetensors to write; by default the experiment's init_weights for an
            ImageNet file, weights/NAME.safetensors for a segmentor.
    """
    config = load_experiment(exp)
    conversion = convert(checkpoint, read_checkpoint(checkpoint), config)
    if output is None:
        named = conversion.fresh and config.init_weights != "none"
        output = Path(config.init_weights if named else f"weights/{Path(exp).stem}.safetensors")
    if output.resolve() == checkpoint.resolve():
        raise ValueError(f"{output} is the file to convert itself; give another --output")
    source = f"{conversion.source}, {checkpoint.name}"
    save_weights(output, conversion.arrays, config, source, conversion.fresh)
    next_step = "train --init-weights" if conversion.fresh else "evaluate --weights"
    # Paths not through rich: it would wrap the lines, which people copy.
    print(f"{checkpoint}: {conversion.source}")
    Console().print(conversion_table(conversion))
    print(f"wrote {output}; next:")
    print(f"  python -m jaxparse.{next_step} {output} --exp {exp} --data-dir DIR")


def main() -> None:
    """Command line of `convert_file`."""
    import tyro

    tyro.cli(convert_file, prog="python -m jaxparse.convert_weights")


if __name__ == "__main__":
    cli.run(main)
