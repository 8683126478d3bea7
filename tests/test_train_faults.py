"""What goes wrong around a run, done for real: kills, full disks, damaged files, a second run."""

import gc
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxparse import cli
from jaxparse.cli import INTERRUPTED
from jaxparse.config import Config
from jaxparse.data.loaders import EvalLoader, make_train_loader
from jaxparse.data.masks import write_mask
from jaxparse.data.sources import SkippingSource, make_source
from jaxparse.devices import make_mesh
from jaxparse.training.checkpoint import quiet_aftermath
from jaxparse.training.interval import NonFiniteLossError
from jaxparse.training.logs import MetricsLog
from jaxparse.training.steps import TrainState, init_state
from jaxparse.training.validation import Validation
from jaxparse.weights.files import BEST_WEIGHTS, read_weights, save_weights
from tests import mini
from tests.disks import file_size_limit, flip, largest
from tests.pairs import make_pair
from tests.refusal import refuses
from tests.runs import CONFIG, before_step, last_state, losses_of, rows, run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def assert_same_end(ours: Config, theirs: Config) -> None:
    """Bit-identical states; the same losses and scores, each once; whole best weights."""
    states = [jax.tree.leaves(last_state(config)) for config in (ours, theirs)]
    for mine, other in zip(*states, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert losses_of(ours) == losses_of(theirs)
    assert [row["step"] for row in losses_of(ours)] == list(range(1, ours.steps + 1))
    scores = {row["step"]: row["val/mIoU"] for row in rows(ours, "val/")}
    assert len(scores) == len(rows(ours, "val/"))
    for row in rows(theirs, "val/"):
        if row["step"] % ours.eval_every:
            continue
        assert scores[row["step"]] == row["val/mIoU"]
    best = max(scores, key=scores.get)
    source = read_weights(Path(ours.workdir) / BEST_WEIGHTS)[1]["source"]
    assert source.startswith(f"step {best} of")


def wait_for(condition: Callable[[], Any], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


# The moments: after the first step, half-way through writing a checkpoint, after the fifth step.
@pytest.mark.parametrize(
    "moments",
    [("checkpoint",), pytest.param((1, "checkpoint", 5), marks=pytest.mark.full)],
    ids=["once", "three times"],
)
def test_killed_ends_bit_for_bit_like_the_uninterrupted_run(
    whole: Config, tmp_path: Path, moments: tuple[int | str, ...]
) -> None:
    config = replace(CONFIG, eval_every=1, workdir=str(tmp_path / "run"))
    workdir = Path(config.workdir)
    command = [sys.executable, "-m", "jaxparse.train", "--exp", str(mini.__file__)]
    changes = ["--eval-every", "1", "--workdir", str(workdir)]
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    metrics, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"

    def logged(step: int) -> Callable[[], bool]:
        text = f'"step": {step}, "train'
        return lambda: metrics.exists() and text in metrics.read_text()

    def writes_a_checkpoint() -> bool:
        names = os.listdir(checkpoints) if checkpoints.exists() else []
        return any("tmp" in name and int(name.split(".")[0]) >= 3 for name in names)

    for name in moments:
        moment = writes_a_checkpoint if name == "checkpoint" else logged(name)
        process = subprocess.Popen(
            command + changes,
            env=os.environ | cache,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(moment, process)
        if moment is not writes_a_checkpoint:
            with refuses(workdir, f"process {process.pid} on"):
                run(config)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        if moment is writes_a_checkpoint:
            assert writes_a_checkpoint()  # half-written
    code, screen = run(config)
    assert code == 0
    assert f"resuming {workdir} after step" in screen
    assert_same_end(config, whole)
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        "config.json", "metrics.jsonl", "checkpoints", "tensorboard", BEST_WEIGHTS, "examples.png",
        "lock",
    }  # fmt: skip
    assert all(name.isdigit() for name in os.listdir(checkpoints))


@pytest.mark.full
def test_stopping_during_an_evaluation_breaks_it_off_and_loses_nothing(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(whole, workdir=str(tmp_path / "run"))
    seen = []

    def advance(self: Validation, done: int) -> None:
        if not seen:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(done)
        original(self, done)

    original = Validation.advance
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "advance", advance)
        code, screen = run(config)
    assert max(seen) < 6  # broken off: not all pictures were evaluated
    assert code == INTERRUPTED
    assert "stopped and saved after step 3" in screen
    assert not rows(config, "val/")
    code, screen = run(config)
    assert code == 0
    assert screen.index("after step 3") < screen.index("evaluation after step 3")
    assert_same_end(config, whole)


@pytest.mark.full
def test_full_disk_keeps_the_last_checkpoint_and_goes_on_once_there_is_room(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, eval_every=2, workdir=str(tmp_path / "run"))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # to be put back
    quiet_aftermath()  # else pytest complains of a hundred tracebacks
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(state: TrainState) -> TrainState:
        while not (Path(config.workdir) / "checkpoints" / "2").exists():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
        return state

    with monkeypatch.context() as patch:
        before_step(patch, 4, fill)
        patch.setattr(Validation, "save", lambda *_: None)
        try:
            kept = "the checkpoint after step 2 is kept"
            with refuses(f"{config.workdir}/checkpoints", "File too large", kept, error=OSError):
                run(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()  # what the failed write left complains when it is collected
    code, screen = run(config)
    assert code == 0
    assert "resuming" in screen and "after step 2\n" in screen
    assert_same_end(config, whole)


@pytest.mark.full
def test_full_disk_keeps_the_best_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, workdir=str(tmp_path))
    state = init_state(config, make_mesh())
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    log = MetricsLog(tmp_path, 0, is_main=False)
    bar = cli.progress_bar(Console(quiet=True))
    validation = Validation(config, EvalLoader(config, "val"), log, bar, [])
    old = tmp_path / BEST_WEIGHTS
    save_weights(old, {"x": np.zeros(3, np.float32)}, config, "old")
    with file_size_limit(1 << 14), refuses("best.safetensors", error=OSError):
        validation.save(weights, BEST_WEIGHTS, "step 3")
    assert read_weights(old)[1]["source"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == [BEST_WEIGHTS]


def test_damaged_checkpoint_falls_back_to_the_one_before(whole: Config, tmp_path: Path) -> None:
    config = replace(whole, workdir=str(tmp_path / "run"))
    shutil.copytree(whole.workdir, config.workdir)
    checkpoints = Path(config.workdir) / "checkpoints"
    damaged = largest(checkpoints / "6")
    flip(damaged)
    code, screen = run(config)
    assert code == 0
    name = damaged.relative_to(checkpoints / "6")
    assert (
        f"warning: {checkpoints}/6 cannot be read ({name} is damaged); it was renamed to 6.corrupt"
        in screen
    )
    assert f"resuming {config.workdir} after step 3" in screen
    assert {path.name for path in checkpoints.iterdir()} == {"3", "6", "6.corrupt"}
    assert_same_end(config, whole)


def test_never_restarts_silently(whole: Config, tmp_path: Path) -> None:
    config = replace(whole, workdir=str(tmp_path / "run"))
    shutil.copytree(whole.workdir, config.workdir)
    checkpoints = Path(config.workdir) / "checkpoints"
    for step in ("3", "6"):
        flip(largest(checkpoints / step))
    before = (Path(config.workdir) / "metrics.jsonl").read_text()
    with refuses(checkpoints, "6: ", "3: ", "is damaged"):
        run(config)
    assert {path.name for path in checkpoints.iterdir()} == {"3", "6"}
    assert (Path(config.workdir) / "metrics.jsonl").read_text() == before


def test_state_that_is_not_finite_is_never_saved(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NaN among the optimiser's moments: the loss of step 4 is still finite, its weights not."""
    config = replace(CONFIG, eval_every=2, workdir=str(tmp_path / "run"))

    def poison(state: TrainState) -> TrainState:
        leaves, tree = jax.tree.flatten(state.opt_state)
        leaves = [x * np.nan if x.dtype == np.float32 else x for x in leaves]
        return state._replace(opt_state=jax.tree.unflatten(tree, leaves))

    before_step(monkeypatch, 4, poison)
    with refuses("after step 4", "step 2 is kept", "jaxparse.data", error=NonFiniteLossError):
        run(config)
    assert os.listdir(Path(config.workdir) / "checkpoints") == ["2"]
    assert [row["step"] for row in rows(config, "val/")] == [2]
    arrays, metadata = read_weights(Path(config.workdir) / BEST_WEIGHTS)
    assert metadata["source"].startswith("step 2 of")
    assert all(np.isfinite(array).all() for array in arrays.values())


def faces(folder: Path) -> Config:
    for split, count in (("train", 10), ("val", 6)):
        for index in range(count):
            make_pair(folder, split, index, (64, 64))
    return replace(CONFIG, data_dir=str(folder), workdir=str(folder / "run"))


def test_files_that_become_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(faces(tmp_path), on_bad_data="skip")
    bad = [
        tmp_path / "train/train_image/004.png",
        tmp_path / "train/train_mask/005.png",
        tmp_path / "val/val_image/002.png",
    ]
    strict = make_train_loader(config)

    def spoil(state: TrainState) -> TrainState:
        for path in bad:
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + 20 * b"x")
        return state

    before_step(monkeypatch, 1, spoil)
    code, screen = run(config)
    assert code == 0
    notes = sorted(row["note"] for row in rows(config, "note"))
    assert [note.split(" (")[0] for note in notes] == [
        f"skipped: cannot read image {bad[0]}",
        f"skipped: cannot read image {bad[2]}",
        f"skipped: cannot read mask {bad[1]}",
    ]
    assert all(screen.count(f"{path} (") == 1 for path in bad)
    with pytest.raises(ValueError) as error:  # as does a run that is to stop
        for _ in range(6):
            next(strict)
    assert re.match(r"cannot read (image|mask) \S+/00[45].png \([^\n]*$", str(error.value))
    # A resumed run finds them bad from the start, header and all.
    source = SkippingSource(make_source(config, "train", True, keep_bad=True), print)
    assert [source[index]["name"] for index in (3, 4, 5, 6)] == ["003", "006", "006", "006"]
    with pytest.raises(ValueError, match="cannot read image"):
        make_source(config, "train")


def test_full_disk_ends_the_log_in_a_line_and_leaves_no_torn_row(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write(1, "train", {"loss": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with file_size_limit(size + 5), refuses(tmp_path, error=OSError):
        log.write(2, "train", {"loss": 1.0})
    log.close()
    log = MetricsLog(tmp_path, 1)
    log.write(2, "train", {"loss": 0.5})
    log.close()
    read = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["train/loss"]) for row in read] == [(1, 1.0), (2, 0.5)]


@pytest.mark.full
def test_masks_of_only_ignored_pixels_are_said(tmp_path: Path) -> None:
    """Nothing is learnt and nothing is scored: no weights are called the best."""
    for split, count in (("train", 10), ("val", 6)):
        for index in range(count):
            mask = make_pair(tmp_path, split, index, (64, 64))[1]
            write_mask(mask, np.full((64, 64), 255, np.uint8))
    config = replace(CONFIG, data_dir=str(tmp_path), workdir=str(tmp_path / "run"))
    code, screen = run(config)
    assert code == 0
    assert screen.count("nothing to learn") == 6 and "nothing could be scored" in screen
    assert not (tmp_path / "run" / BEST_WEIGHTS).exists() and "no best weights" in screen
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
