"""Evaluation within a training run: the log's val rows and the weights of the best step.

Two compiled programs, the network and the counting of blocks of the masks, serve pictures of all
sizes without leaving the run's mesh; `jaxparse.evaluate` goes through the Parser instead, for
test-time augmentation and boundary IoU.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec
from PIL import Image
from rich.progress import Progress

from jaxparse import cli
from jaxparse.config import Config
from jaxparse.data.images import write_image
from jaxparse.data.loaders import EvalLoader
from jaxparse.devices import make_mesh, replicated, shard_batch
from jaxparse.files import writing
from jaxparse.models.ops.resize import resize_logits
from jaxparse.parsing.network import highest_class, make_logits_step, predict_label
from jaxparse.parsing.overlay import contact_sheet
from jaxparse.scoring.scores import Scores
from jaxparse.training.averaging import EVALUATIONS, kept_evaluations
from jaxparse.training.logs import MetricsLog
from jaxparse.training.metrics import confusion_matrix
from jaxparse.training.steps import TrainState
from jaxparse.weights.files import BEST_EMA_WEIGHTS, BEST_WEIGHTS, flatten, save_weights


def make_eval_step(config: Config, block: tuple[int, int]) -> Callable[..., Array]:
    """The evaluation of one batch, as `data.loaders.EvalLoader` gives it with this `block`.

    (params, batch_stats, {image, label, size} of numpy arrays) -> confusion matrix int32 [C, C].
    """
    classes = len(config.classes)
    mesh = make_mesh()
    everywhere, shards = PartitionSpec(), PartitionSpec("data")
    # Each device has its own pictures: a loop over those of all devices would gather them on each.
    per_device = partial(jax.shard_map, mesh=mesh, check_vma=False)
    network = per_device(
        make_logits_step(config), in_specs=(everywhere, everywhere, shards), out_specs=shards
    )

    def count(total: Array, logits: Array, label: Array, size: Array, corner: Array) -> Array:
        # One picture at a time, C maps each. Two loops: in one, XLA would recompute the
        # prediction for each of the C rows that are counted, 8 times as slow for 19.
        predictions = jax.lax.map(
            lambda picture: predict_label(*picture, block, corner, config.align_corners),
            (logits, size),
        )
        counts = jax.lax.map(
            lambda picture: confusion_matrix(*picture, classes), (label, predictions)
        )
        # Onto the sum so far: one collective at a time, gloo mixes up those of two programs.
        return total + jax.lax.psum(counts.sum(0), "data")

    in_specs = (everywhere, shards, shards, shards, everywhere)
    count = jax.jit(per_device(count, in_specs=in_specs, out_specs=everywhere))
    network = jax.jit(network)
    nothing = jax.device_put(np.zeros((classes, classes), np.int32), replicated(mesh))

    def eval_step(
        params: dict[str, Any], batch_stats: dict[str, Any], batch: dict[str, np.ndarray]
    ) -> Array:
        label, (height, width), total = batch["label"], block, nothing
        image, size = shard_batch((batch["image"], batch["size"]), mesh)
        logits = network(params, batch_stats, image)
        for y, x in product(range(0, label.shape[1], height), range(0, label.shape[2], width)):
            part = shard_batch(label[:, y : y + height, x : x + width], mesh)
            total = count(total, logits, part, size, np.array([y, x], np.int32))
        return total

    return eval_step


def confusion_of(
    eval_step: Callable[..., Array],
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    loader: EvalLoader,
    advance: Callable[[int], object] = lambda done: None,
) -> np.ndarray:
    """Confusion matrix int64 [C, C] over all pictures of `loader`, rows by label.

    `eval_step` is that of `make_eval_step`; params and batch_stats are replicated over the
    devices. `advance(n)` is called after every batch with the number of pictures begun so far, all
    processes together.
    """
    classes = len(loader.config.classes)
    total = np.zeros((classes, classes), np.int64)
    confusion = np.zeros_like(total)
    for number, batch in enumerate(loader, start=1):
        # Waits for the batch before: one is in flight, and int32 need only count one.
        total += np.asarray(confusion)
        confusion = eval_step(params, batch_stats, batch)
        advance(min(number * len(batch["name"]) * jax.process_count(), len(loader.source)))
    return total + np.asarray(confusion)


def write_examples(
    path: Path,
    config: Config,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    loader: EvalLoader,
) -> None:
    """Writes one image of the first batch: pictures, masks and predictions side by side.

    All at the network's input size. Runs on this process's first device only.
    """
    params, batch_stats = jax.device_get((params, batch_stats))
    batch, side = next(iter(loader)), config.image_size
    logits = make_logits_step(config)(params, batch_stats, batch["image"])
    predictions = jax.jit(
        lambda x: highest_class(resize_logits(x, (side, side), config.align_corners))
    )(logits)
    truths = (
        Image.fromarray(label[:height, :width]).resize((side, side), Image.Resampling.NEAREST)
        for label, (height, width) in zip(batch["label"], batch["size"], strict=True)
    )
    columns = {"picture": batch["image"], "truth": truths, "prediction": predictions}
    count = sum(map(bool, batch["name"]))
    shown = {title: list(map(np.asarray, column))[:count] for title, column in columns.items()}
    write_image(path, contact_sheet(shown, side, config.classes))


class StoppedError(Exception):
    """Raised to abort an evaluation when the run was asked to stop."""


class Validation:
    """Scores the network on the val pictures; keeps the weights of the best evaluation."""

    def __init__(
        self, config: Config, loader: EvalLoader, log: MetricsLog, bar: Progress, stops: list[int]
    ) -> None:
        self.config, self.loader, self.log, self.bar, self.stops = config, loader, log, bar, stops
        self.eval_step = make_eval_step(config, loader.block)
        self.task = bar.add_task(cli.COMPILING, total=len(loader.source), visible=False)

    def is_due(self, step: int) -> bool:
        """Whether the network is evaluated after `step`."""
        return step % self.config.eval_every == 0 or step == self.config.steps

    def is_missing(self, step: int) -> bool:
        """Whether the evaluation due after `step` has not been finished: the run stopped before."""
        return step > 0 and self.is_due(step) and not self.log.has("val/mIoU", step)

    def __call__(self, state: TrainState, step: int) -> Scores | None:
        """The scores after `step`, None if the run was asked to stop meanwhile.

        If the run has a moving average of the weights, that is scored as well: `val_ema`.
        """
        weights = {"params": state.params, "batch_stats": state.batch_stats}
        try:
            if state.ema:
                self.score(state.ema, step, "val_ema", BEST_EMA_WEIGHTS)
            self.keep(weights, step)
            return self.score(weights, step, "val", BEST_WEIGHTS)
        except StoppedError:
            return None

    def score(self, weights: dict[str, dict[str, Any]], step: int, name: str, file: str) -> Scores:
        """The scores of `weights`, logged; the best ones so far go to `file`."""
        self.bar.reset(self.task, visible=True)
        confusion = confusion_of(
            self.eval_step, **weights, loader=self.loader, advance=self.advance
        )
        result = Scores.of(confusion, names=self.config.classes.names)
        means = result.means()
        if self.log.is_main and means["mIoU"] > self.log.best(f"{name}/mIoU"):
            source = f"step {step} of {self.config.workdir}: {name} mIoU {100 * means['mIoU']:.2f}"
            self.save(weights, file, source)
        if name == "val":
            # Written before the means, so that a reader who sees the means can rely on them.
            per_class = zip(result.names, result.iou.tolist(), strict=True)
            self.log.write(step, "IoU", dict(per_class))
        self.log.write(step, name, means)
        cli.show(self.bar.console, evaluation_line(step, name, result))
        return result

    def keep(self, weights: dict[str, dict[str, Any]], step: int) -> None:
        """Adds the weights to the newest `keep_evaluations`; before the score, whose row in the log
        says that all of this evaluation is on disk."""
        count, workdir = self.config.keep_evaluations, self.config.workdir
        if not (count and self.log.is_main):
            return
        self.save(weights, f"{EVALUATIONS}/{step}.safetensors", f"step {step} of {workdir}")
        for path in kept_evaluations(workdir)[:-count]:
            path.unlink()

    def save(self, weights: dict[str, dict[str, Any]], file: str, source: str) -> None:
        """Writes or replaces a weights file in the run's folder."""
        workdir = self.config.workdir
        arrays = flatten(weights["params"]) | flatten(weights["batch_stats"])
        with writing(file, workdir, "the previous one and the checkpoints are kept"):
            save_weights(Path(workdir) / file, jax.device_get(arrays), self.config, source)

    def advance(self, done: int) -> None:
        """Moves the bar, which hides when it is full."""
        visible = done < len(self.loader.source)
        self.bar.update(self.task, completed=done, visible=visible, description="evaluating")
        # One process must not leave a collective alone.
        if self.stops and jax.process_count() == 1:
            raise StoppedError


def evaluation_line(step: int, name: str, result: Scores) -> str:
    """One line for the terminal."""
    means = "  ".join(f"{name} {100 * value:.2f}" for name, value in result.means().items())
    average = " of the moving average" if name == "val_ema" else ""
    if math.isnan(result.mean_iou):
        means = "nothing could be scored: every pixel of the masks is 255 (ignored)"
    return f"evaluation{average} after step {step}: {means}"
