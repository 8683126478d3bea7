"""What the network will see: `python -m jaxparse.preview --exp NAME --output sheet.png`.

Training pictures with their masks, read and augmented as the run of the same flags does at that
step, in one picture to look at before a long run.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("preview")

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparse import cli
from jaxparse.classes import Classes
from jaxparse.config import Config, parse_arguments
from jaxparse.data.images import write_image
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import Batch, all_devices, use_compilation_cache
from jaxparse.files import require_writable_file
from jaxparse.parsing.overlay import WHITE, beside, blend, fit, legend, occurring
from jaxparse.training.augment import augment, augments, with_keys

LARGEST_SIDE = 256  # pixels of a picture on the sheet
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
PER_ROW = 4  # pictures, each with its mask beside it


@dataclass(frozen=True)
class PreviewOptions:
    """Flags of this command beside the fields of Config."""

    output: Path = Path("preview.png")
    """Picture to write: .png, .jpg, .webp, .tif or .bmp."""
    count: int = 16
    """Pictures to show."""
    step: int = 0
    """Steps of the run before the first picture; 0 shows its first batches."""


def require_options(options: PreviewOptions, config: Config) -> None:
    """Raises ValueError for values that no sheet can have, before anything is read."""
    if options.count < 1 or not 0 <= options.step < config.steps:
        raise ValueError(
            f"--count {options.count}, --step {options.step}: give a count of at least 1 and a "
            f"step in 0..{config.steps - 1}"
        )
    if options.output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {options.output} must end in one of {', '.join(SUFFIXES)}")


def as_seen(batch: Batch, step: Array, config: Config) -> tuple[Array, Array]:
    """The pictures and masks of a step: uint8 [B, S, S, 3], rounded, and uint8 [B, S, S]."""
    if augments(config):
        batch = augment(with_keys(batch, step, config), config)
    return jnp.rint(batch["image"]).astype(jnp.uint8), batch["label"]


def pictures_from(config: Config, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pictures and masks, uint8 [S, S, 3] and [S, S], of `step`, then of those after it.

    Raises ValueError if the data cannot be read.
    """
    skip = config.on_bad_data == "skip"
    warn = partial(print, "warning:", file=sys.stderr) if skip else None
    loader = make_train_loader(config, warn=warn)
    loader.set_state({"next_index": step * config.batch_size})
    compiled = jax.jit(partial(as_seen, config=config))
    for number in itertools.count(step):
        images, labels = jax.device_get(compiled(next(loader), number))
        yield from zip(images, labels, strict=True)


def sheet(pictures: list[tuple[np.ndarray, np.ndarray]], side: int, classes: Classes) -> np.ndarray:
    """Rows of pictures, each with its mask blended on the right, and a legend: uint8 [H, W, 3].

    Pictures are fitted into squares of `side` pixels. Ignored pixels are whitish.
    """
    pairs = [
        np.concatenate(
            [fit(x, side, classes) for x in (image, blend(image, label, classes))], axis=1
        )
        for image, label in pictures
    ]
    columns = min(PER_ROW, len(pairs))
    pairs += [np.full_like(pairs[0], WHITE)] * (-len(pairs) % columns)
    starts = range(0, len(pairs), columns)
    rows = [np.concatenate(pairs[start : start + columns], axis=1) for start in starts]
    return beside(np.concatenate(rows), legend(occurring(x for _, x in pictures), side, classes))


def preview(config: Config, options: PreviewOptions) -> None:
    """Writes the sheet. Raises ValueError for bad options, bad data, or an output that cannot be
    written."""
    require_options(options, config)
    require_writable_file(options.output)
    with cli.busy():
        pictures = list(itertools.islice(pictures_from(config, options.step), options.count))
    side = min(config.image_size, LARGEST_SIDE)
    write_image(options.output, sheet(pictures, side, config.classes))
    count = cli.counted(options.count, "picture")
    print(f"written to {options.output}: {count} from step {options.step} on")
    if not augments(config):
        print("no augmentation is on; --mirror-probability 0.5 is the first to try")


def main() -> None:
    """Command line: `--exp NAME`, every field of its Config, and `PreviewOptions`."""
    about = (cli.prog("preview"), "Draws training pictures and masks as the network will see them.")
    _, config, options = parse_arguments(*about, PreviewOptions())
    all_devices()
    use_compilation_cache()
    preview(config, options)
