"""What goes wrong around a run, done for real: kills, full disks, damaged files, a second run.

The runs are those of test_train.py, so that they share its compiled programs.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxparse import train as train_module
from jaxparse.cli import INTERRUPTED
from jaxparse.config import Config
from jaxparse.data.loaders import EvalLoader, make_train_loader
from jaxparse.data.sources import SkippingSource, make_source
from jaxparse.devices import make_mesh
from jaxparse.files import reason, sole_run
from jaxparse.training.checkpoint import Checkpoints, quiet_aftermath
from jaxparse.training.logs import MetricsLog
from jaxparse.training.steps import NonFiniteLossError, TrainState, init_state
from jaxparse.training.validation import Evaluation
from jaxparse.weights.files import BEST_WEIGHTS, read_weights, save_weights
from tests.pairs import make_pair
from tests.test_train import CONFIG, before_step, last_state, rows, run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An uninterrupted run, evaluated and saved after steps 3 and 6."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    config = replace(CONFIG, eval_every=3, workdir=str(workdir))
    assert run(config)[0] == 0
    return config


def assert_same_end(ours: Config, theirs: Config) -> None:
    """Bit-identical states; the same losses and scores, each once; whole best weights."""
    states = [jax.tree.leaves(last_state(config)) for config in (ours, theirs)]
    for mine, other in zip(*states, strict=True):
        np.testing.assert_array_equal(mine, other)
    logged = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(config, "train/")]
        for config in (ours, theirs)
    ]
    assert logged[0] == logged[1]
    assert [row["step"] for row in logged[0]] == list(range(1, ours.steps + 1))
    scores = {row["step"]: row["val/mIoU"] for row in rows(ours, "val/")}
    assert len(scores) == len(rows(ours, "val/"))
    for row in rows(theirs, "val/"):
        if row["step"] % ours.eval_every:
            continue
        assert scores[row["step"]] == row["val/mIoU"]
    best = max(scores, key=scores.get)
    source = read_weights(Path(ours.workdir) / BEST_WEIGHTS)[1]["source"]
    assert source.startswith(f"step {best} of")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file can be written beyond `size` bytes: real writes fail, as on a full disk (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def wait_for(condition: Callable[[], Any], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_killed_three_times_ends_bit_for_bit_like_the_uninterrupted_run(
    whole: Config, tmp_path: Path
) -> None:
    config = replace(CONFIG, eval_every=1, workdir=str(tmp_path / "run"))
    experiment, workdir = tmp_path / "small.py", Path(config.workdir)
    experiment.write_text(
        f"from jaxparse.config import Config\nconfig = Config(**{vars(config)!r})\n"
    )
    command = [sys.executable, "-m", "jaxparse.train", "--exp", str(experiment)]
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    metrics, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"

    def logged(text: str) -> Callable[[], bool]:
        return lambda: metrics.exists() and text in metrics.read_text()

    def writes_a_checkpoint() -> bool:
        names = os.listdir(checkpoints) if checkpoints.exists() else []
        return any("tmp" in name and int(name.split(".")[0]) >= 3 for name in names)

    for moment in (logged('"step": 1, "train'), writes_a_checkpoint, logged('"step": 5, "train')):
        process = subprocess.Popen(
            command,
            env=os.environ | cache,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(moment, process)
        if moment is not writes_a_checkpoint:
            with pytest.raises(ValueError, match=rf"is in use by a run, process {process.pid} on"):
                run(config)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        if moment is writes_a_checkpoint:
            assert writes_a_checkpoint()  # half-written
    code, screen = run(config)
    assert code == 0
    assert "going on after step" in screen
    assert_same_end(config, whole)
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        "config.json", "metrics.jsonl", "checkpoints", "tensorboard", BEST_WEIGHTS, "examples.png",
        "lock",
    }  # fmt: skip
    assert all(name.isdigit() for name in os.listdir(checkpoints))


def test_stopping_during_an_evaluation_takes_seconds_and_loses_nothing(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(whole, workdir=str(tmp_path / "run"))
    sent = []

    def advance(self: Evaluation, done: int) -> None:
        if not sent:
            os.kill(os.getpid(), signal.SIGTERM)
            sent.append(time.monotonic())
        original(self, done)

    original = Evaluation.advance
    monkeypatch.setattr(Evaluation, "advance", advance)
    code, screen = run(config)
    assert time.monotonic() - sent[0] < 20  # half a second where the machine is idle
    assert code == INTERRUPTED
    assert "stopped and saved after step 3" in screen
    assert not rows(config, "val/")
    code, screen = run(config)
    assert code == 0
    assert screen.index("going on after step 3") < screen.index("evaluation after step 3")
    assert_same_end(config, whole)


def test_full_disk_keeps_the_last_checkpoint_and_goes_on_once_there_is_room(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, eval_every=2, workdir=str(tmp_path / "run"))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # to be put back
    quiet_aftermath()  # else pytest complains of a hundred traces
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(state: TrainState) -> TrainState:
        while not (Path(config.workdir) / "checkpoints" / "2").exists():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        return state

    with monkeypatch.context() as patch:
        before_step(patch, 4, fill)
        patch.setattr(Evaluation, "save_best", lambda *_: None)
        try:
            with pytest.raises(OSError) as error:
                run(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value) == (
        f"cannot write the checkpoint after step 4 to {config.workdir}/checkpoints (File too "
        "large); the checkpoint after step 2 is kept: free space there or mend the "
        "cause, then the same command goes on"
    )
    code, screen = run(config)
    assert code == 0
    assert "going on after step 2" in screen
    assert_same_end(config, whole)


def test_full_disk_keeps_the_best_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, workdir=str(tmp_path))
    state = init_state(config, make_mesh())
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    log = MetricsLog(tmp_path, 0, is_main=False)
    bar = train_module.progress_bar(train_module.Console(quiet=True))
    evaluation = Evaluation(config, EvalLoader(config, "val"), log, bar, [])
    old = tmp_path / BEST_WEIGHTS
    save_weights(old, {"x": np.zeros(3, np.float32)}, config, "old")
    with file_size_limit(1 << 20), pytest.raises(OSError, match="cannot write best.safetensors to"):
        evaluation.save_best(weights, BEST_WEIGHTS, "step 3")
    assert read_weights(old)[1]["source"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == [BEST_WEIGHTS]


def test_full_disk_ends_the_log_in_a_line_and_leaves_no_torn_row(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write(1, "train", {"loss": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with file_size_limit(size + 5), pytest.raises(OSError, match=f"write the log to {tmp_path} "):
        log.write(2, "train", {"loss": 1.0})
    log.close()
    log = MetricsLog(tmp_path, 1)
    log.write(2, "train", {"loss": 0.5})
    log.close()
    read = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["train/loss"]) for row in read] == [(1, 1.0), (2, 0.5)]


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


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
        f"warning: {checkpoints}/6 cannot be read ({name} is damaged); it is put aside as 6.corrupt"
        in screen.replace("\n", "")
    )
    assert "going on after step 3" in screen
    assert {path.name for path in checkpoints.iterdir()} == {"3", "6", "6.corrupt"}
    assert_same_end(config, whole)


@pytest.mark.parametrize("harm", ["truncate", "delete", "empty_item", "unsealed"])
def test_damage_of_each_kind_is_found(whole: Config, tmp_path: Path, harm: str) -> None:
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(Path(whole.workdir) / "checkpoints", checkpoints)
    newest = checkpoints / "6"
    if harm == "truncate":
        os.truncate(largest(newest), 1000)
    elif harm == "delete":
        largest(newest).unlink()
    elif harm == "empty_item":
        shutil.rmtree(newest / "state")
    else:
        (newest / "crc32.json").unlink()
        (newest / "data" / "process_0-of-1.json").write_text("{")
    state, loader = init_state(whole, make_mesh()), make_train_loader(whole)
    manager = Checkpoints(tmp_path)
    restored, step, lines = manager.restore(state, loader)
    assert step == 3 == manager.latest_step()
    assert int(restored.step) == 3
    assert loader.get_state() == {"next_index": 12}
    assert len(lines) == 1 and "6 cannot be read (" in lines[0]
    manager.close()


def test_never_starts_anew_by_itself(whole: Config, tmp_path: Path) -> None:
    config = replace(whole, workdir=str(tmp_path / "run"))
    shutil.copytree(whole.workdir, config.workdir)
    checkpoints = Path(config.workdir) / "checkpoints"
    for step in ("3", "6"):
        flip(largest(checkpoints / step))
    before = (Path(config.workdir) / "metrics.jsonl").read_text()
    expected = r"no checkpoint in \S+/checkpoints can be read \(6: .* is damaged; 3: .*\); copy one"
    with pytest.raises(ValueError, match=expected):
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
    expected = r"is not finite after step 4; the checkpoint after step 2 is kept: look at the data"
    with pytest.raises(NonFiniteLossError, match=expected):
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
            path.write_bytes(b"gone")
        return state

    before_step(monkeypatch, 1, spoil)
    code, screen = run(config)
    assert code == 0
    notes = sorted(row["note"] for row in rows(config, "note"))
    assert [note.split(" (")[0] for note in notes] == [
        f"skipped: cannot read image {bad[0]}",
        f"skipped: cannot read image {bad[2]}",
        f"skipped: cannot read label {bad[1]}",
    ]
    assert all(screen.count(f"{path} (") == 1 for path in bad)
    with pytest.raises(ValueError) as error:  # as does a run that is to stop
        for _ in range(6):
            next(strict)
    assert re.match(r"cannot read (image|label) \S+/00[45].png \([^\n]*$", str(error.value))
    # A resumed run finds them bad from the start, header and all.
    source = SkippingSource(make_source(config, "train", True, keep_bad=True), print)
    assert [source[index]["name"] for index in (3, 4, 5, 6)] == ["003", "006", "006", "006"]
    with pytest.raises(ValueError, match="cannot read image"):
        make_source(config, "train")


def test_with_nothing_readable_the_run_stops(tmp_path: Path) -> None:
    config = faces(tmp_path)
    told = []
    source = SkippingSource(make_source(config, "train"), told.append)
    for path in (tmp_path / "train/train_image").iterdir():
        path.unlink()
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"none of FolderSource\(10 pairs.* can be read any mo"
        ):
            source[3]
    assert len(told) == 10


def test_only_what_dead_runs_left_is_removed(tmp_path: Path) -> None:
    for name in (
        ".best.123.safetensors",
        ".metrics.7.jsonl",
        ".results.7.json",
        "best.safetensors",
    ):
        (tmp_path / name).touch()
    with sole_run(tmp_path):
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {".results.7.json", "best.safetensors", "lock"}


def test_reason() -> None:
    error = ValueError(
        'OUT_OF_RANGE: Error writing "x" at local file "/r/c/": Failed to write 29 bytes to file '
        "16: No space left on device [os_error_code='28' source locations='a.cc:1']"
    )
    assert reason(error) == "No space left on device"
    assert reason(ValueError()) == "ValueError"
    assert reason(OSError(28, "No space left on device", "f")) == "No space left on device"
    assert len(reason(ValueError("x" * 5000))) == 121
