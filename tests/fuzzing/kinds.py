"""All kinds by name."""

from collections.abc import Callable
from pathlib import Path

from tests.fuzzing import clips, folders, lists, pictures, saved, tables
from tests.fuzzing.judge import Kind

NEEDING_TORCH = ("torch", "objects of torch")
KINDS: dict[str, Callable[[Path], Kind]] = {
    "pictures": pictures.pictures,
    "masks": pictures.masks,
    "masks without sums": pictures.masks_without_sums,
    "masks in other palettes": tables.palettes,
    "tables of classes": tables.tables,
    "clips": clips.clips,
    "pairs": pictures.pairs,
    "scored masks": pictures.scored_masks,
    "masks of parts": pictures.parts,
    "release": pictures.release_pictures,
    "weights": saved.weights,
    "weights without sums": saved.weights_without_sums,
    "safetensors": saved.foreign_safetensors,
    "folders": folders.folders,
    "torch": saved.torch_zip,
    "old torch": saved.torch_pickle,
    "objects of torch": saved.torch_objects,
    "config.json": saved.config,
    "metrics.jsonl": saved.metrics,
    "figures": saved.figure,
    "checkpoints": saved.checkpoint,
    "submissions": lists.submissions,
    "lists of CelebA": lists.celeba_lists,
    "prepare.json": lists.record,
    "experiments": lists.experiments,
    "flags": lists.command_line,
}

# Cases of those that take long, as a share of the others' number.
SHARES = {"figures": 0.05, "checkpoints": 0.4, "safetensors": 0.2, "old torch": 0.3, "flags": 0.2}
SHARES |= {"weights without sums": 0.3, "objects of torch": 0.3}


def cases_of(total: int, kinds: list[str]) -> dict[str, int]:
    """How many cases each kind gets of a total, at least one."""
    shares = {kind: SHARES.get(kind, 1) for kind in kinds}
    return {k: max(1, round(total * share / sum(shares.values()))) for k, share in shares.items()}
