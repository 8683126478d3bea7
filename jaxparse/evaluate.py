"""mIoU of a network on labelled pictures, at the masks' own sizes.

    python -m jaxparse.evaluate --workdir RUN
    python -m jaxparse.evaluate --exp NAME --weights FILE --data-dir DIR

The tables and the names of the figures are mmsegmentation's.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from PIL import Image
from rich.console import Console

from jaxparse import cli
from jaxparse.checkpoint import BEST_WEIGHTS, load_network
from jaxparse.classes import NUM_CLASSES
from jaxparse.config import Config
from jaxparse.data import EvalLoader, make_eval_loader
from jaxparse.files import atomic_path
from jaxparse.images import write_image
from jaxparse.metrics import highest_class
from jaxparse.models.functional import resize_logits
from jaxparse.overlay import contact_sheet
from jaxparse.score_tables import results, scores_table
from jaxparse.scoring import scores
from jaxparse.steps import (
    make_eval_step,
    make_logits_step,
    make_mesh,
    replicated,
    require_shards,
    shard_batch,
    use_compilation_cache,
)


def evaluate(
    eval_step: Callable[..., Array],
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    loader: EvalLoader,
    advance: Callable[[int], object] = lambda done: None,
) -> np.ndarray:
    """Confusion matrix int64 [19, 19] over all pictures of `loader`, rows by label.

    `eval_step` is that of `steps.make_eval_step`; params and batch_stats are replicated over the
    devices. `advance(n)` is called after every batch with the number of pictures begun so far, all
    processes together.
    """
    mesh = make_mesh()
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    confusion = np.zeros_like(total)
    for number, batch in enumerate(loader, start=1):
        names = batch.pop("name")
        arrays = shard_batch(batch, mesh)
        # Waits for the batch before: one is in flight, and int32 need only count one.
        total += np.asarray(confusion)
        confusion = eval_step(params, batch_stats, arrays)
        advance(min(number * len(names) * jax.process_count(), len(loader.source)))
    return total + np.asarray(confusion)


def evaluate_network(
    workdir: str | None = None,
    exp: str | None = None,
    weights: str | None = None,
    data_dir: str | None = None,
    split: Literal["val", "train"] = "val",
    batch_size: int | None = None,
    num_workers: int | None = None,
    output: Path | None = None,
) -> None:
    """Prints IoU and accuracy per class and writes them as JSON.

    Args:
        workdir: Folder of a run; its best weights are taken.
        exp: Experiment, in place of a run; needs --weights.
        weights: Weights of the experiment's network (.safetensors).
        data_dir: Folder with val/, or `synthetic`; default: that of the run or experiment.
        split: Pictures to evaluate on.
        batch_size: Pictures at once, over all devices; default: that of the run or experiment.
        num_workers: Threads that decode pictures; default: that of the run or experiment.
        output: File to write; default RUN/results.json, without a run ./results.json.
    """
    config, params, batch_stats = load_network(workdir, exp, weights)
    given = {"data_dir": data_dir, "batch_size": batch_size, "num_workers": num_workers}
    config = dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    mesh = make_mesh()
    require_shards(config.batch_size, mesh)
    loader = make_eval_loader(config, split)
    params, batch_stats = jax.device_put((params, batch_stats), replicated(mesh))
    with cli.progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("evaluating", total=len(loader.source))
        advance = partial(progress.update, task)
        confusion = evaluate(
            make_eval_step(config), params, batch_stats, loader, lambda n: advance(completed=n)
        )
    network_scores = scores(confusion)
    Console().print(scores_table(network_scores))
    about = {
        "experiment": exp or workdir,
        "weights": weights or str(Path(workdir) / BEST_WEIGHTS),
        "data_dir": config.data_dir,
        "split": split,
        "pictures": len(loader.source),
    }
    output = output or Path(workdir or ".") / "results.json"
    write_results(output, about | results(network_scores))
    print(f"written to {output}")


def write_examples(
    path: Path,
    config: Config,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    loader: EvalLoader,
) -> None:
    """Writes the pictures of the first batch beside their masks and the network's, as one image.

    All at the network's input size. Runs on this process's first device alone.
    """
    params, batch_stats = jax.device_get((params, batch_stats))
    batch, side = next(iter(loader)), config.image_size
    logits = make_logits_step(config)(params, batch_stats, batch["image"])
    predictions = jax.jit(lambda x: highest_class(resize_logits(x, (side, side))))(logits)
    truths = (
        Image.fromarray(label[:height, :width]).resize((side, side), Image.Resampling.NEAREST)
        for label, (height, width) in zip(batch["label"], batch["size"], strict=True)
    )
    columns = {"picture": batch["image"], "truth": truths, "prediction": predictions}
    count = sum(map(bool, batch["name"]))
    shown = {title: list(map(np.asarray, column))[:count] for title, column in columns.items()}
    write_image(path, contact_sheet(shown, side))


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Writes the dict as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def main() -> None:
    """Command line of `evaluate_network`."""
    import tyro

    use_compilation_cache()
    tyro.cli(evaluate_network, prog="python -m jaxparse.evaluate")


if __name__ == "__main__":
    cli.run(main)
