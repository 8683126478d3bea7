"""The training run: resuming, stopping, refusing; on swin_nano at 64×64 and drawn faces.

All runs are one program: what differs between them is not compiled in.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grain.checkpoint import CheckpointSave
from orbax.checkpoint import CheckpointManager
from orbax.checkpoint.args import Composite, StandardSave
from rich.console import Console

from jaxparse import train as train_module
from jaxparse.classes import NAMES
from jaxparse.cli import INTERRUPTED
from jaxparse.config import Config, load_experiment
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import Batch, make_mesh
from jaxparse.train import train
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.logs import log_line, summarise
from jaxparse.training.steps import (
    NonFiniteLossError,
    StepMetrics,
    TrainState,
    init_state,
    require_finite,
    start_state,
)
from jaxparse.weights.files import (
    BEST_EMA_WEIGHTS,
    BEST_WEIGHTS,
    find_init_weights,
    flatten,
    read_weights,
    save_weights,
)

# tf.summary's protobuf code, which this package does not call itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# Six steps of four pictures, evaluated at the end; dropout and drop path on.
CONFIG = replace(
    load_experiment("quickstart"),
    image_size=64,
    batch_size=4,
    synthetic_train_count=10,
    synthetic_val_count=6,
    num_workers=2,
    learning_rate=1e-3,
    drop_path_rate=0.05,
    warmup_steps=2,
    steps=6,
    eval_every=6,
    log_every=1,
)
Step = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def run(config: Config) -> tuple[int, str]:
    """Exit code and what was printed."""
    screen = io.StringIO()
    code = train(config, Console(file=screen, width=200))
    return code, screen.getvalue()


def last_state(config: Config) -> TrainState:
    checkpoints = Checkpoints(config.workdir)
    assert checkpoints.latest_step() == config.steps
    return checkpoints.restore(init_state(config, make_mesh()), make_train_loader(config))[0]


def rows(config: Config, prefix: str = "") -> list[dict[str, Any]]:
    lines = (Path(config.workdir) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if any(k.startswith(prefix) for k in row)]


def before_step(
    patch: pytest.MonkeyPatch, number: int, change: Callable[[TrainState], TrainState]
) -> None:
    """`change` sees the state before step `number` (1-based) of the runs from now on."""

    original = train_module.make_train_step

    def make(config: Config) -> Step:
        step = original(config)
        return lambda state, batch: step(
            change(state) if int(state.step) == number - 1 else state, batch
        )

    patch.setattr(train_module, "make_train_step", make)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, str]:
    """An uninterrupted run, evaluated after steps 3 and 6, and what it printed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = replace(CONFIG, eval_every=3, workdir=str(workdir))
    code, screen = run(config)
    assert code == 0
    return config, screen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    finished: tuple[Config, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    whole, _ = finished
    config = replace(CONFIG, workdir=str(tmp_path / "run"))

    def stop(state: TrainState) -> TrainState:
        os.kill(os.getpid(), number)
        return state

    with monkeypatch.context() as patch:
        before_step(patch, 3, stop)
        code, screen = run(config)
    assert code == INTERRUPTED
    assert "stopped and saved after step 3; the same command goes on from there" in screen
    assert not (tmp_path / "run" / BEST_WEIGHTS).exists()
    code, screen = run(config)
    assert code == 0
    assert "going on after step 3" in screen

    resumed, uninterrupted = last_state(config), last_state(whole)
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(uninterrupted), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    logged = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(c, "train/")]
        for c in (config, whole)
    ]
    assert logged[0] == logged[1]
    assert [row["step"] for row in logged[0]] == [1, 2, 3, 4, 5, 6]


def test_run_leaves_what_predict_and_people_need(finished: tuple[Config, str]) -> None:
    config, screen = finished
    assert "2,956,084" in screen  # the table of parameters
    assert "step 5/6" in screen
    assert "| necklace" in screen  # the class table
    workdir = Path(config.workdir)
    evaluations = rows(config, "val/")
    assert [row["step"] for row in evaluations] == [3, 6]
    per_class = rows(config, "IoU/")
    assert [row.pop("step") for row in per_class] == [3, 6]
    for means, row in zip(evaluations, per_class, strict=True):
        assert row.keys() <= {f"IoU/{name}" for name in NAMES}
        assert np.mean(list(row.values())) == pytest.approx(means["val/mIoU"])
    best = max(evaluations, key=lambda row: row["val/mIoU"])
    arrays, metadata = read_weights(workdir / BEST_WEIGHTS)
    assert metadata["source"].startswith(f"step {best['step']} of {workdir}: val mIoU")
    state = last_state(config)
    expected = flatten(state.params) | flatten(state.batch_stats)
    assert arrays.keys() == expected.keys()
    same = [np.array_equal(array, expected[name]) for name, array in arrays.items()]
    assert all(same) == (best["step"] == 6)
    assert (workdir / "examples.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").glob("events*"))


def test_finished_run_is_left_alone(finished: tuple[Config, str]) -> None:
    config, _ = finished
    before = rows(config)
    code, screen = run(config)
    assert code == 0
    assert "already at its last step, 6" in screen
    assert rows(config) == before


def test_logged_figures(finished: tuple[Config, str]) -> None:
    """Loss near log 19 from noise, the sum of its parts; the rate is the schedule's."""
    first, second, *_ = rows(finished[0], "train/")
    assert first["train/decode_loss"] == pytest.approx(np.log(19), abs=0.2)
    assert first["train/auxiliary_loss"] == pytest.approx(0.4 * np.log(19), abs=0.1)
    assert first["train/loss"] == pytest.approx(
        first["train/decode_loss"] + first["train/auxiliary_loss"]
    )
    assert first["train/learning_rate"] == pytest.approx(1e-9)
    assert second["train/learning_rate"] == pytest.approx(1e-3 * 5 / 6 * (0.5 + 0.5e-6))


def test_non_finite_loss_names_the_step_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, eval_every=3, log_every=50, workdir=str(tmp_path / "run"))

    def poison(state: TrainState) -> TrainState:
        return state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))

    before_step(monkeypatch, 5, poison)
    with pytest.raises(NonFiniteLossError, match="loss of step 5 is nan; the checkpoint after st"):
        run(config)
    assert Checkpoints(config.workdir).latest_step() == 3
    assert [row["step"] for row in rows(config, "train/")] == [3]


def test_average_of_the_weights_is_evaluated_and_saved_beside_them(tmp_path: Path) -> None:
    config = replace(CONFIG, ema_decay=0.5, precision="float16", workdir=str(tmp_path / "run"))
    code, screen = run(config)
    assert code == 0
    assert f"best moving average of the weights: {tmp_path}/run/best_ema.safetensors" in screen
    arrays, metadata = read_weights(tmp_path / "run" / BEST_EMA_WEIGHTS)
    (evaluation,) = rows(config, "val_ema/")
    score = 100 * evaluation["val_ema/mIoU"]
    assert metadata["source"] == f"step 6 of {tmp_path}/run: val_ema mIoU {score:.2f}"
    state = last_state(config)
    expected = flatten(state.ema["params"]) | flatten(state.ema["batch_stats"])
    raw = flatten(state.params) | flatten(state.batch_stats)
    assert arrays.keys() == expected.keys() == raw.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
        assert not np.array_equal(array, raw[name]), name
    assert state.loss_scale == (2.0**15, 6)
    assert [row["train/loss_scale"] for row in rows(config, "train/")] == [2.0**15] * 6
    assert rows(config, "val/")[0].keys() == {"step", "val/aAcc", "val/mIoU", "val/mAcc"}


def test_checkpoint_from_before_a_field_was_there_is_restored(tmp_path: Path) -> None:
    class Before(NamedTuple):
        step: Any
        params: Any
        batch_stats: Any
        opt_state: Any

    state = init_state(CONFIG, make_mesh())
    before = Before(*state[:4])._replace(step=jnp.int32(3))
    args = {"state": StandardSave(before), "data": CheckpointSave(make_train_loader(CONFIG))}
    with CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(3, args=Composite(**args))
    restored, step, faults = Checkpoints(tmp_path).restore(state, make_train_loader(CONFIG))
    assert (step, faults) == (3, [])
    assert isinstance(restored, TrainState)
    assert (restored.step, restored.loss_scale, restored.ema) == (3, None, None)
    for ours, theirs in zip(
        jax.tree.leaves(restored[1:]), jax.tree.leaves(before[1:]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_overflow_that_no_loss_scale_cures_ends_the_run(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    metrics = StepMetrics(*[jnp.float32(np.nan)] * 4, loss_scale=jnp.float32(1))
    require_finite(metrics, 7, checkpoints)
    with pytest.raises(NonFiniteLossError) as error:
        require_finite(metrics._replace(loss_scale=jnp.float32(0.5)), 8, checkpoints)
    assert str(error.value).startswith(
        "the gradients overflow at step 8 even with a loss scale of 0.5; there is no checkpoint yet"
    )


def test_log_leaves_out_losses_that_overflowed() -> None:
    steps = [StepMetrics(*[jnp.float32(x)] * 4, loss_scale=jnp.float32(8)) for x in (2, np.inf, 4)]
    row = summarise(CONFIG, steps, 3, 1.5)
    assert (row["loss"], row["loss_scale"], row["seconds_per_step"]) == (3, 8, 0.5)
    assert "loss_scale" not in summarise(CONFIG, [steps[0]._replace(loss_scale=None)], 1, 1)


@pytest.mark.parametrize("whole", [True, False])
def test_starts_from_the_weights_of_a_backbone_or_a_segmentor(whole: bool, tmp_path: Path) -> None:
    noise = init_state(CONFIG, make_mesh())
    before = flatten(noise.params) | flatten(noise.batch_stats)
    names = [name for name in before if whole or name.startswith("backbone.")]
    arrays = {name: np.full(before[name].shape, 0.5, "f4") for name in names}
    path, fresh = tmp_path / "w.safetensors", ("decode_head.", "auxiliary_head.")
    save_weights(path, arrays, CONFIG, "a test", () if whole else fresh)
    state = start_state(replace(CONFIG, ema_decay=0.9), make_mesh(), path)
    for name, array in (flatten(state.params) | flatten(state.batch_stats)).items():
        np.testing.assert_array_equal(array, arrays.get(name, before[name]))
    averages = flatten(state.ema["params"]) | flatten(state.ema["batch_stats"])
    for name, array in (flatten(state.params) | flatten(state.batch_stats)).items():
        np.testing.assert_array_equal(averages[name], array)
        assert averages[name].unsafe_buffer_pointer() != array.unsafe_buffer_pointer()


def test_file_that_init_weights_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_experiment("deeplabv3plus_r50_finetune")
    expected = (
        r"^there is no runs/deeplabv3plus_r50_20k/best.safetensors; train that run first, or give "
        r"another RUN or FILE to --init-weights; --init-weights none starts from noise$"
    )
    with pytest.raises(ValueError, match=expected):
        find_init_weights(config, "deeplabv3plus_r50_finetune")
    best = Path("runs/deeplabv3plus_r50_20k/best.safetensors")
    best.parent.mkdir(parents=True)
    best.write_bytes(b"")
    for init_weights in (str(best.parent), str(best)):
        assert find_init_weights(replace(config, init_weights=init_weights), "e") == best
    assert find_init_weights(replace(config, init_weights="none"), "e") is None


def test_workdir_of_another_run_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, workdir=str(tmp_path / "run"))
    train_module.save_config(config, config.workdir)
    other = replace(config, learning_rate=5e-4, drop_path_rate=0.2, log_every=7)
    expected = r"run with drop_path_rate 0.05 \(now 0.2\), learning_rate 0.001 \(now 0.0005\); give"
    with pytest.raises(ValueError, match=expected):
        run(other)


def test_missing_weights_end_the_run_before_anything_is_read_or_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_experiment("swin_t")  # its data are missing as well
    with pytest.raises(ValueError) as error:
        train(config, Console(), "swin_t")
    assert str(error.value) == (
        "there is no file weights/swin_t_imagenet.safetensors; make it with python -m "
        "jaxparse.convert_weights --exp swin_t --output weights/swin_t_imagenet.safetensors; "
        "--init-weights none starts from noise"
    )
    assert not list(tmp_path.iterdir())


def test_command_line_knows_the_name_of_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--exp", "swin_b", "--workdir", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_module, "use_compilation_cache", lambda: None)
    with pytest.raises(ValueError, match="python -m jaxparse.convert_weights --exp swin_b --out"):
        train_module.main()


def test_log_line() -> None:
    config = Config(steps=160_000)
    row = {
        "loss": 1.5,
        "decode_loss": 1.1,
        "auxiliary_loss": 0.4,
        "pixel_accuracy": 0.875,
        "learning_rate": 5.9e-5,
        "seconds_per_step": 0.25,
    }
    assert log_line(config, 100, row) == (
        "step 100/160000  loss 1.5000 (decode 1.1000, auxiliary 0.4000)  accuracy 87.50 %  "
        "learning rate 5.9e-05  0.250 s/step  11:06:15 left"
    )
