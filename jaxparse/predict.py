"""Pictures -> masks at their own sizes, as palette PNG.

    python -m jaxparse.predict --workdir RUN --input FILE_OR_DIR... --output DIR [--overlay]
    python -m jaxparse.predict --exp NAME --weights FILE --input FILE_OR_DIR... --output DIR

Runs on one device. Threads read ahead and write behind; pictures of all sizes share two compiled
programs, the network and the upsampling of a tile.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from rich.console import Console

from jaxparse import cli
from jaxparse.checkpoint import load_network
from jaxparse.config import Config
from jaxparse.data import read_ahead, resize_image
from jaxparse.files import atomic_path
from jaxparse.folders import find_images
from jaxparse.images import read_image, write_image, write_mask
from jaxparse.metrics import highest_class
from jaxparse.models.functional import apply_class_first, resize_matrix
from jaxparse.overlay import overlay as draw_overlay
from jaxparse.steps import make_logits_step, use_compilation_cache

# Height and width of what is upsampled at once, in 19 float maps: 5 MB, where a photograph of 12
# megapixels would take 0.9 GB.
TILE = 256

T = TypeVar("T")
Network = Callable[[np.ndarray], Array]  # uint8 [B, S, S, 3] -> logits float32 [B, h, w, 19]


class Picture(NamedTuple):
    """A picture as the network takes it."""

    path: Path
    image: np.ndarray  # uint8 [S, S, 3]
    size: tuple[int, int]  # its own (height, width)


class Prediction(NamedTuple):
    """What the network made of a picture."""

    path: Path
    label: np.ndarray  # uint8 [H, W], 0..18, at the picture's own size
    logits: np.ndarray  # float32 [h, w, 19], at the network's resolution


@jax.jit
def predict_tile(logits: Array, rows: Array, columns: Array) -> Array:
    """Logits [h, w, C] -> classes uint8 [TILE, TILE] with matrices [TILE, h] and [TILE, w]."""
    return highest_class(apply_class_first(logits[None], rows, columns))[0]


def tile_matrices(in_size: int, out_size: int) -> list[np.ndarray]:
    """The resizing matrix of one axis in parts float32 [TILE, in_size], the last filled up."""
    matrix = resize_matrix(in_size, out_size).astype(np.float32)
    matrix = np.pad(matrix, ((0, -out_size % TILE), (0, 0)))
    return list(matrix.reshape(-1, TILE, in_size))


def predict_tiled(logits: Array, size: tuple[int, int]) -> np.ndarray:
    """Logits [h, w, C] -> classes uint8 [*size]: resized to it bilinearly, then the highest."""
    height, width = size
    rows, columns = map(tile_matrices, logits.shape[:2], size)
    columns = jax.device_put(columns)
    tiles = [[predict_tile(logits, row, column) for column in columns] for row in rows]
    return np.block(jax.device_get(tiles))[:height, :width]


def read_picture(path: Path, image_size: int) -> Picture | ValueError:
    """The picture at the network's size, or what is wrong with the file."""
    try:
        picture = read_image(path)
    except ValueError as error:
        return error
    return Picture(path, resize_image(picture, image_size), picture.size[::-1])


def predict_batch(network: Network, batch: list[Picture], size: int) -> Iterator[Prediction]:
    """Predictions of at most `size` pictures, in order; the rest of the batch is black."""
    images = np.stack([picture.image for picture in batch])
    images = np.pad(images, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
    logits = network(images)
    for picture, picture_logits in zip(batch, logits, strict=False):
        label = predict_tiled(picture_logits, picture.size)
        yield Prediction(picture.path, label, np.asarray(picture_logits))


def predict_pictures(
    network: Network, pictures: Iterable[Picture | ValueError], batch_size: int
) -> Iterator[Prediction | ValueError]:
    """Predictions in batches of one size; errors are handed on, out of turn."""
    batch = []
    for picture in pictures:
        if isinstance(picture, ValueError):
            yield picture
            continue
        batch.append(picture)
        if len(batch) == batch_size:
            yield from predict_batch(network, batch, batch_size)
            batch = []
    if batch:
        yield from predict_batch(network, batch, batch_size)


def write_overlay(path: Path, prediction: Prediction) -> None:
    """Writes the blended picture; it is read again, so that none waits in memory meanwhile."""
    write_image(path, draw_overlay(np.asarray(read_image(prediction.path)), prediction.label))


def write_logits(path: Path, prediction: Prediction) -> None:
    """Writes float32 [h, w, 19] as .npy."""
    with atomic_path(path) as temporary:
        np.save(temporary, prediction.logits)


# What is written for STEM.jpg: ending after STEM -> writer.
WRITERS = {
    ".png": lambda path, prediction: write_mask(path, prediction.label),
    "_overlay.png": write_overlay,
    ".npy": write_logits,
}


def write_prediction(
    prediction: Prediction | ValueError, output: Path, endings: Iterable[str]
) -> ValueError | None:
    """Writes the files of a prediction; an error is handed on."""
    if isinstance(prediction, ValueError):
        return prediction
    for ending in endings:
        WRITERS[ending](output / f"{prediction.path.stem}{ending}", prediction)
    return None


def require_free(paths: Iterable[Path], output: Path, endings: Iterable[str]) -> None:
    """Raises ValueError if files written to `output` could replace an input or each other."""
    writers: dict[str, Path] = {}
    for path in paths:
        if output.resolve() in (path.parent.resolve(), path.resolve().parent):
            raise ValueError(
                f"--output {output} is the folder of the input {path}, which might be overwritten; "
                "give another folder"
            )
        for ending in endings:
            name = f"{path.stem}{ending}"
            if writers.setdefault(name, path) != path:
                raise ValueError(
                    f"{writers[name]} and {path} would both be written to {output / name}; rename "
                    "one, or give them another --output each"
                )


def predict_files(
    config: Config,
    network: Network,
    paths: list[Path],
    output: Path,
    endings: Iterable[str],
    track: Callable[[Iterable[T]], Iterable[T]] = iter,
) -> Iterator[ValueError]:
    """Writes the files of every picture; yields what is wrong with those that cannot be read.

    Of `config` it takes image_size, batch_size and num_workers. `track` is passed an iterator with
    an item per picture and hands its items on: a progress bar.
    """
    read = partial(read_picture, image_size=config.image_size)
    pictures = read_ahead(read, paths, config.num_workers)
    predictions = predict_pictures(network, pictures, config.batch_size)
    write = partial(write_prediction, output=output, endings=endings)
    yield from filter(None, read_ahead(write, track(predictions), config.num_workers))


def predict(
    input: list[Path],
    output: Path,
    workdir: str | None = None,
    exp: str | None = None,
    weights: str | None = None,
    overlay: bool = False,
    logits: bool = False,
    batch_size: int = 4,
    num_workers: int = 4,
) -> int:
    """Writes a mask STEM.png, with the classes 0..18 as values, for every picture STEM.jpg.

    Args:
        input: Pictures and folders of pictures.
        output: Folder to write to.
        workdir: Folder of a run; its best weights are taken.
        exp: Experiment, in place of a run; needs --weights.
        weights: Weights of the experiment's network (.safetensors).
        overlay: Also write STEM_overlay.png, the picture under the mask's colours, with a legend.
        logits: Also write STEM.npy, float32 [h, w, 19] at the network's resolution.
        batch_size: Pictures at once.
        num_workers: Threads that read pictures, and as many that write.

    Returns 1 if a picture could not be read, else 0.
    """
    paths = list(dict.fromkeys(find_images(input)))
    if not paths:
        raise ValueError("--input names no picture; give pictures or folders of pictures")
    endings = (".png", *["_overlay.png"] * overlay, *[".npy"] * logits)
    require_free(paths, output, endings)
    config, params, batch_stats = load_network(workdir, exp, weights)
    config = replace(config, batch_size=min(batch_size, len(paths)), num_workers=num_workers)
    output.mkdir(parents=True, exist_ok=True)
    network = partial(make_logits_step(config), *jax.device_put((params, batch_stats)))
    bad = 0
    with cli.progress_bar(Console(stderr=True)) as progress:
        track = partial(progress.track, total=len(paths), description="predicting")
        for fault in predict_files(config, network, paths, output, endings, track):
            bad += 1
            # Not wrapped: people grep and copy these lines.
            progress.console.print(fault, markup=False, highlight=False, soft_wrap=True)
    skipped = f", {bad} of {len(paths)} pictures skipped" if bad else ""
    print(f"{len(paths) - bad} masks in {output}{skipped}")
    return 1 if bad else 0


def main() -> int:
    """Command line of `predict`."""
    import tyro

    use_compilation_cache()
    return tyro.cli(predict, prog="python -m jaxparse.predict")


if __name__ == "__main__":
    cli.run(main)
