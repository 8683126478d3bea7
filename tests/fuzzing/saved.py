"""Kinds of damaged weights, and of what a run leaves in its folder."""

import io
import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from jaxparse.classes import CELEBAMASK
from jaxparse.config import Config, read_config, require_same_run, save_config
from jaxparse.models import require_enough_pictures, split_model
from jaxparse.report.sections import last_change
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.curves import describe, draw
from jaxparse.training.logs import MetricsLog, best_row, class_ious, read_runs, series
from jaxparse.weights.conversion import convert, to_mmseg
from jaxparse.weights.files import NETWORK_FIELDS, flatten, load_weights, save_weights
from jaxparse.weights.find import config_of_weights, load_network
from jaxparse.weights.foreign import read_checkpoint, write_torch
from tests import logged, mini
from tests.fuzzing.damage import BYTES, join_safetensors, split_safetensors
from tests.fuzzing.judge import Kind
from tests.fuzzing.typed import HEADERS, JSON, METADATA, TEXT, line
from tests.torch_files import write_old

CONFIG = replace(mini.config, workdir="")


@cache
def network() -> tuple[dict[str, Any], dict[str, Any]]:
    """Abstract params and batch_stats of the mini network."""
    return split_model(CONFIG)[1:]


def arrays() -> dict[str, np.ndarray]:
    """No two alike."""
    params, batch_stats = network()
    rng = np.random.default_rng(0)
    shapes = {name: x.shape for name, x in (flatten(params) | flatten(batch_stats)).items()}
    return {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in shapes.items()}


def read_network(path: Path) -> tuple[object, ...]:
    """What `load_network` gives; the network is built only where it is not the usual one."""
    config = config_of_weights(path)
    if shape(config) == shape(CONFIG):
        loaded = load_weights(path, config, *network())
    else:
        config, *loaded = load_network(path)
    return config, *loaded


def shape(config: Config) -> tuple[object, ...]:
    """What decides the shapes of the network."""
    return tuple(getattr(config, name) for name in NETWORK_FIELDS)


def weights(folder: Path) -> Kind:
    """This package's file: bytes, arrays, metadata."""
    save_weights(folder / "best.safetensors", arrays(), CONFIG, origin="the fuzz")
    original = {"best.safetensors": (folder / "best.safetensors").read_bytes()}
    return Kind(original, BYTES | HEADERS | METADATA, read_network, sums=True)


def weights_without_sums(folder: Path) -> Kind:
    """This package's file as before there were checksums."""
    save_weights(folder / "best.safetensors", arrays(), CONFIG, origin="the fuzz")
    header, content = split_safetensors((folder / "best.safetensors").read_bytes())
    del header["__metadata__"]["crc32"]
    old = join_safetensors(json.dumps(header).encode(), content)
    return Kind({"best.safetensors": old}, HEADERS | METADATA, read_network)


def foreign_safetensors(folder: Path) -> Kind:
    """Another package's file, which has no checksums: converted."""
    from safetensors.numpy import save

    data = save(to_mmseg(arrays(), CONFIG), {"format": "pt"})
    return Kind({"timm.safetensors": data}, BYTES | HEADERS, read_converted)


def read_converted(path: Path) -> dict[str, np.ndarray]:
    return convert(path, read_checkpoint(path).arrays, CONFIG).arrays


def torch_zip(folder: Path) -> Kind:
    """PyTorch's file since 1.6, a zip with checksums. Needs torch."""
    meta = {"meta": {"epoch": 3, "classes": ["skin"]}}
    write_torch(folder / "mmseg.pth", to_mmseg(arrays(), CONFIG), meta)
    original = {"mmseg.pth": (folder / "mmseg.pth").read_bytes()}
    return Kind(original, BYTES, read_checkpoint, sums=True)


def torch_pickle(folder: Path) -> Kind:
    """PyTorch's file of before, without checksums."""
    path = write_old(folder / "old.pth", {"state_dict": to_mmseg(arrays(), CONFIG)})
    return Kind({"old.pth": path.read_bytes()}, BYTES, read_checkpoint)


def object_in_torch(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A state dict with one value, or one name, that is none."""
    import torch

    values = (
        lambda: torch.ones(1).expand(10**10),
        lambda: torch.ones(3, 4).to_sparse(),
        lambda: torch.ones(3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.ones(3, dtype=torch.complex64),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        lambda: torch.ones(3, dtype=torch.bfloat16),
        lambda: torch.ones(3, dtype=torch.bool),
        lambda: torch.ones(0, 3),
        lambda: torch.tensor(3),
        lambda: torch.full((3,), torch.nan),
        lambda: torch.nn.Parameter(torch.ones(3)),
        lambda: torch.ones(8)[::2],
        lambda: [torch.ones(3)],
        lambda: {"a": torch.ones(3)},
        lambda: None,
        lambda: "x" * 1000,
        lambda: 3.5,
    )
    names = ("decode_head.conv_seg.bias", "", "a\nb", "x" * 1000, 3, None, ("a", 1))
    state = {"decode_head.conv_seg.weight": torch.ones(3), rng.choice(names): rng.choice(values)()}
    wrapped = ({"state_dict": state}, {"model": {"state_dict": state}}, state, [state])
    file = io.BytesIO()
    torch.save(rng.choice(wrapped), file)
    return file.getvalue()


def torch_objects(folder: Path) -> Kind:
    """Intact files of torch that hold what is no state dict of plain tensors."""
    write_torch(folder / "mmseg.pth", {"decode_head.conv_seg.weight": np.ones(3, np.float32)}, {})
    original = {"mmseg.pth": (folder / "mmseg.pth").read_bytes()}
    return Kind(original, {"object": object_in_torch}, read_checkpoint)


def config(folder: Path) -> Kind:
    """A run's config.json, as `train` and every command with --weights RUN reads it."""
    run = folder / "fuzzed_run"
    saved = replace(CONFIG, workdir=str(run))
    save_config(saved, run)
    save_weights(run / "best.safetensors", arrays(), CONFIG, origin="the fuzz")

    def read(path: Path) -> Config:
        found = read_config(path.parent)
        require_enough_pictures(found)
        if shape(found) != shape(CONFIG):
            load_network(path.parent)
        require_same_run(replace(found, workdir=str(path.parent)))
        return found

    data = (run / "config.json").read_bytes()
    return Kind({"fuzzed_run/config.json": data}, JSON | TEXT, read, named="fuzzed_run")


def read_rows(path: Path) -> list[object]:
    """What `plot`, `report` and a run that resumes take from the rows, but for the figure."""
    [run] = read_runs([path.parent])
    names = {name for row in run.rows for name in row} | {"val/mIoU", "train/loss", "IoU/skin"}
    names -= {"step", "note"}
    log = MetricsLog(path.parent, 10**6, is_main=False)
    values = [series(run, name) for name in sorted(names)]
    best = [log.best(name) for name in ("val/mIoU", "val/ema_mIoU")]
    changes = [last_change(run, name) for name in ("val/mIoU", "IoU/skin")]
    row = best_row(run)
    return [
        run.rows,
        values,
        best,
        changes,
        log.has("val/mIoU", 40),
        class_ious(row, CELEBAMASK.names),
        describe(run),
    ]


def metrics_file() -> dict[str, bytes]:
    notes = [{"step": 50, "note": "skipped: a.png"}, {"step": 60, "val/mIoU": None}]
    text = "".join(json.dumps(row) + "\n" for row in logged.ALL + notes)
    return {"run/metrics.jsonl": text.encode()}


def metrics(folder: Path) -> Kind:
    """A run's metrics.jsonl."""
    return Kind(metrics_file(), TEXT | {"field": line, "field ": line}, read_rows)


def figure(folder: Path) -> Kind:
    """The same rows, drawn as `plot` does."""

    def read(path: Path) -> tuple[int, ...]:
        file = io.BytesIO()
        draw(read_runs([path.parent])).savefig(file, format="png", dpi=20)
        return file.getvalue()[:16]

    return Kind(metrics_file(), {"field": line}, read)


def typed(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A field of what is JSON, or the end of what is not."""
    is_object = data[:1] == b"{" and not data.startswith(b"{}")
    return JSON["field" if is_object else "other root"](rng, data, other)


class State(NamedTuple):
    """In place of a TrainState."""

    params: dict[str, np.ndarray]
    ema: None = None


def checkpoint(folder: Path) -> Kind:
    """Every file of a run's only checkpoint."""
    state = State({"a": np.arange(500, dtype=np.float32), "b": np.ones((4, 4), np.float32)})

    def loader() -> grain.DatasetIterator:
        return iter(grain.MapDataset.range(100).repeat().to_iter_dataset())

    taken = loader()
    for _ in range(7):
        next(taken)
    checkpoints = Checkpoints(folder)
    checkpoints.save(5, state, taken)
    checkpoints.close()

    def read(path: Path) -> tuple[object, ...]:
        checkpoints, fresh = Checkpoints(folder), loader()
        try:
            restored, step, faults = checkpoints.restore(state, fresh)
        finally:
            checkpoints.close()
        arrays = {name: np.asarray(array) for name, array in restored.params.items()}
        return arrays, step, faults, fresh.get_state()

    files = {str(p.relative_to(folder)): p for p in (folder / "checkpoints").rglob("*")}
    originals = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    return Kind(originals, BYTES | {"typed": typed}, read, sums=True, named="checkpoints")
