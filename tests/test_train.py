"""The training run: resuming, stopping, refusing; on swin_nano at 64×64 and drawn faces."""

import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxparse import train as train_module
from jaxparse.checkpoint import BEST_WEIGHTS, Checkpoints, flatten, read_weights
from jaxparse.cli import INTERRUPTED
from jaxparse.config import Config, load_experiment
from jaxparse.data import make_train_loader
from jaxparse.steps import TrainState, init_state, make_mesh
from jaxparse.train import NonFiniteLossError, log_line, train

# tf.summary's protobuf code, which this package does not call itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Four pictures a step, six steps, evaluated at the end; all randomness on."""
    return replace(
        load_experiment("quickstart"),
        image_size=64,
        batch_size=4,
        synthetic_train_count=10,
        synthetic_val_count=6,
        num_workers=2,
        warmup_steps=2,
        steps=6,
        eval_every=6,
        log_every=1,
        workdir=str(tmp_path / "run"),
    )


def run(config: Config) -> tuple[int, str]:
    """Exit code and what was printed."""
    screen = io.StringIO()
    code = train(config, Console(file=screen, width=200))
    return code, screen.getvalue()


def last_state(config: Config) -> TrainState:
    checkpoints = Checkpoints(config.workdir)
    assert checkpoints.latest_step() == config.steps
    return checkpoints.restore(init_state(config, make_mesh()), make_train_loader(config))


def rows(config: Config, prefix: str) -> list[dict[str, Any]]:
    lines = (Path(config.workdir) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if any(k.startswith(prefix) for k in row)]


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """The first loader made from now on sends this process a signal while `step` is read."""
    make_loader = train_module.make_train_loader

    class Loader:
        def __init__(self, *args: Any) -> None:  # noqa: ANN401
            self.loader, self.step = make_loader(*args), 0

        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            return self

        def __next__(self) -> dict[str, np.ndarray]:
            self.step += 1
            if self.step == step:
                os.kill(os.getpid(), number)
            return next(self.loader)

    def loader_for_checkpoints(loader: Loader) -> Any:  # noqa: ANN401
        return loader.loader

    save = Checkpoints.save
    monkeypatch.setattr(train_module, "make_train_loader", Loader)
    monkeypatch.setattr(
        Checkpoints,
        "save",
        lambda self, step, state, loader: save(self, step, state, loader.loader),
    )


def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(config, workdir=str(tmp_path / "whole"))
    assert run(whole)[0] == 0
    with monkeypatch.context() as patch:
        kill_after(patch, 3, signal.SIGTERM)
        code, screen = run(config)
    assert code == INTERRUPTED
    assert "stopped and saved after step 3; the same command goes on from there" in screen
    assert not (Path(config.workdir) / BEST_WEIGHTS).exists()
    code, screen = run(config)
    assert code == 0
    assert "going on after step 3" in screen

    resumed, uninterrupted = last_state(config), last_state(whole)
    assert int(resumed.step) == 6
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(uninterrupted), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    timeless = [
        [{k: v for k, v in row.items() if k != "train/seconds_per_step"} for row in rows(c, "")]
        for c in (config, whole)
    ]
    assert timeless[0] == timeless[1]
    assert [row["step"] for row in rows(config, "train/")] == [1, 2, 3, 4, 5, 6]


def test_run_leaves_what_predict_and_people_need(config: Config) -> None:
    config = replace(config, steps=4, eval_every=2, log_every=3)
    code, screen = run(config)
    assert code == 0
    assert "2,956,084" in screen  # the table of parameters
    assert "step 3/4" in screen
    assert "necklace" in screen  # the class table
    workdir = Path(config.workdir)
    assert [row["step"] for row in rows(config, "train/")] == [2, 3, 4]
    evaluations = rows(config, "val/")
    assert [row["step"] for row in evaluations] == [2, 4]
    best = max(evaluations, key=lambda row: row["val/mIoU"])
    arrays, metadata = read_weights(workdir / BEST_WEIGHTS)
    assert metadata["source"].startswith(f"step {best['step']} of {workdir}")
    if best["step"] == 4:
        state = last_state(config)
        expected = flatten(state.params) | flatten(state.batch_stats)
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name])
    assert (workdir / "examples.png").stat().st_size > 1000
    assert list((workdir / "tensorboard").glob("events*"))
    # The same command again: nothing left to do, nothing lost.
    code, screen = run(config)
    assert code == 0
    assert "already at its last step, 4" in screen


def test_first_step_does_what_the_formula_says(config: Config) -> None:
    """Loss near log 19 from noise, and 1.4 of it in total; the rate is the schedule's."""
    code, _ = run(replace(config, steps=2, eval_every=2, learning_rate=1e-3, warmup_steps=10))
    first, second = rows(config, "train/")
    assert first["train/decode_loss"] == pytest.approx(np.log(19), abs=0.2)
    assert first["train/loss"] == pytest.approx(
        first["train/decode_loss"] + first["train/auxiliary_loss"]
    )
    assert first["train/learning_rate"] == pytest.approx(1e-9, rel=1e-4)
    assert second["train/learning_rate"] == pytest.approx(0.5e-3 * (1 - 0.9 * (1 - 1e-6)))


def test_non_finite_loss_names_the_step_and_keeps_the_checkpoint(config: Config) -> None:
    config = replace(config, learning_rate=1e38, warmup_steps=0, eval_every=1, steps=5)
    with pytest.raises(NonFiniteLossError, match=r"loss of step 2 is (nan|inf); the checkpoint af"):
        run(config)
    assert Checkpoints(config.workdir).latest_step() == 1
    assert [row["step"] for row in rows(config, "train/")] == [1]


def test_workdir_of_another_run_is_refused(config: Config) -> None:
    train_module.save_config(config, config.workdir)
    other = replace(config, learning_rate=5e-4, drop_path_rate=0.2, log_every=7)
    expected = r"run with drop_path_rate 0.1 \(now 0.2\), learning_rate 0.001 \(now 0.0005\); give"
    with pytest.raises(ValueError, match=expected):
        run(other)


def test_missing_weights_are_named_before_anything_is_written(config: Config) -> None:
    with pytest.raises(ValueError, match=r"no file nowhere.safetensors; python -m jaxparse.conv"):
        run(replace(config, init_weights="nowhere.safetensors"))
    assert not Path(config.workdir).exists()


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
