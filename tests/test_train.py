"""The training run: resuming, stopping, refusing; the mini network on drawn faces."""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from jaxparse import cli
from jaxparse import train as train_module
from jaxparse.classes import CELEBAMASK
from jaxparse.cli import INTERRUPTED
from jaxparse.config import Config, load_experiment, save_config
from jaxparse.models import split_model
from jaxparse.train import train
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.interval import NonFiniteLossError
from jaxparse.training.steps import TrainState
from jaxparse.weights.files import BEST_EMA_WEIGHTS, BEST_WEIGHTS, flatten, read_weights
from jaxparse.weights.find import find_init_weights
from tests.refusal import refuses
from tests.runs import CONFIG, before_step, last_state, losses_of, rows, run

# tf.summary's protobuf code, which this package does not call itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full)]
)
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
    assert "stopped and saved after step 3" in screen
    assert not (tmp_path / "run" / BEST_WEIGHTS).exists()
    code, screen = run(config)
    assert code == 0
    assert f"resuming {config.workdir} after step 3" in screen

    resumed, uninterrupted = last_state(config), last_state(whole)
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(uninterrupted), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert losses_of(config) == losses_of(whole)
    assert [row["step"] for row in losses_of(config)] == [1, 2, 3, 4, 5, 6]


def test_run_leaves_what_predict_and_people_need(finished: tuple[Config, str]) -> None:
    config, screen = finished
    assert screen.startswith("device: ")
    _, params, _ = split_model(config)
    assert f"{sum(x.size for x in jax.tree.leaves(params)):,}" in screen  # of parameters
    assert "step 5/6" in screen
    assert "| necklace" in screen  # the class table
    workdir = Path(config.workdir)
    evaluations = rows(config, "val/")
    assert [row["step"] for row in evaluations] == [3, 6]
    per_class = rows(config, "IoU/")
    assert [row.pop("step") for row in per_class] == [3, 6]
    for means, row in zip(evaluations, per_class, strict=True):
        assert [*row] == [f"IoU/{name}" for name in CELEBAMASK.names]
        known = [value for value in row.values() if value is not None]
        assert np.mean(known) == pytest.approx(means["val/mIoU"])
    best = max(evaluations, key=lambda row: row["val/mIoU"])
    arrays, metadata = read_weights(workdir / BEST_WEIGHTS)
    assert metadata["source"].startswith(f"step {best['step']} of {workdir}: val mIoU")
    state = last_state(config)
    expected = flatten(state.params) | flatten(state.batch_stats)
    assert arrays.keys() == expected.keys()
    same = [np.array_equal(array, expected[name]) for name, array in arrays.items()]
    assert all(same) == (best["step"] == 6)
    assert f"best weights: {workdir / BEST_WEIGHTS}\n" in screen
    assert f"jaxparse.predict --weights '{workdir}' --input PICTURES" in screen
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
    """Loss near log 19 from scratch, the sum of its parts; the rate is the schedule's."""
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

    bar, titles = Progress(disable=True), []

    def look(state: TrainState) -> TrainState:
        titles.append([(task.description, task.started) for task in bar.tasks if task.visible])
        return state

    monkeypatch.setattr(cli, "progress_bar", lambda console: bar)
    before_step(monkeypatch, 1, look)
    before_step(monkeypatch, 2, look)
    before_step(monkeypatch, 5, poison)
    with refuses("step 5", "nan", "checkpoint after step 3 is kept", error=NonFiniteLossError):
        run(config)
    assert titles == [[(cli.COMPILING, False)], [("training", True)]]  # a step compiles once
    assert Checkpoints(config.workdir).latest_step() == 3
    assert [row["step"] for row in rows(config, "train/")] == [3]


@pytest.mark.full
def test_average_of_the_weights_is_evaluated_and_saved_beside_them(tmp_path: Path) -> None:
    config = replace(CONFIG, ema_decay=0.5, workdir=str(tmp_path / "run"))
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
    assert rows(config, "val/")[0].keys() == {"step", "val/aAcc", "val/mIoU", "val/mAcc"}


def test_file_that_init_weights_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_experiment("deeplabv3plus_r50_finetune")
    with refuses("runs/deeplabv3plus_r50_20k", "train that run", "--init-weights none"):
        find_init_weights(config, "deeplabv3plus_r50_finetune")
    best = Path("runs/deeplabv3plus_r50_20k/best.safetensors")
    best.parent.mkdir(parents=True)
    best.write_bytes(b"")
    for init_weights in (str(best.parent), str(best)):
        assert find_init_weights(replace(config, init_weights=init_weights), "e") == best
    assert find_init_weights(replace(config, init_weights="none"), "e") is None


def test_workdir_of_another_run_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, workdir=str(tmp_path / "run"))
    save_config(config, config.workdir)
    other = replace(config, learning_rate=5e-4, drop_path_rate=0.2, log_every=7)
    differing = "drop_path_rate 0.05 (now 0.2)", "learning_rate 0.001 (now 0.0005)"
    with refuses(config.workdir, *differing, "--workdir"):
        run(other)


def test_missing_weights_end_the_run_before_anything_is_read_or_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_experiment("swin_t")  # its data are missing as well
    command = "jaxparse.convert_weights --exp swin_t --output weights/swin_t_imagenet.safetensors"
    with refuses(command, "--init-weights none"):
        train(config, Console(), "swin_t")
    assert not list(tmp_path.iterdir())


def test_command_line_knows_the_name_of_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--exp", "swin_b", "--workdir", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_module, "use_compilation_cache", lambda: None)
    with refuses("python -m jaxparse.convert_weights --exp swin_b"):
        train_module.main()


def test_old_flag_for_a_plan_still_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []
    monkeypatch.setattr(
        train_module.runpy, "run_module", lambda name: {"main": lambda: called.append(name)}
    )
    monkeypatch.setattr(sys, "argv", ["train", "--exp", "swin_b", "--plan", "--device", "h100"])
    train_module.main()
    assert called == ["jaxparse.plan"]
    assert sys.argv == ["train", "--exp", "swin_b", "--device", "h100"]
    assert capsys.readouterr().err.count("python -m jaxparse.plan") == 1


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"accumulate_steps": 4}])
def test_batch_norm_of_one_value_is_refused(changes: dict[str, int], tmp_path: Path) -> None:
    with refuses("upernet", "--batch-size", "--accumulate-steps"):
        run(replace(CONFIG, workdir=str(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_resuming_does_not_need_what_the_run_started_from(whole: Config, tmp_path: Path) -> None:
    config = replace(whole, init_weights=str(tmp_path / "gone.safetensors"))
    with refuses("gone.safetensors"):
        run(replace(config, workdir=str(tmp_path / "new")))
    shutil.copytree(whole.workdir, tmp_path / "run")
    config = replace(config, workdir=str(tmp_path / "run"))
    save_config(config, config.workdir)
    assert run(config)[0] == 0
