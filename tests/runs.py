"""Training runs of the mini network in this process, and what they leave in their folder."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jaxparse import train as train_module
from jaxparse.config import Config
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import Batch, make_mesh
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.steps import StepMetrics, TrainState, init_state
from tests import mini

CONFIG = mini.config
Step = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def run(config: Config) -> tuple[int, str]:
    """Exit code and what was printed."""
    screen = io.StringIO()
    code = train_module.train(config, Console(file=screen, width=200))
    return code, screen.getvalue()


def last_state(config: Config) -> TrainState:
    """The state after the last step."""
    checkpoints = Checkpoints(config.workdir)
    assert checkpoints.latest_step() == config.steps
    return checkpoints.restore(init_state(config, make_mesh()), make_train_loader(config))[0]


def rows(config: Config, prefix: str = "") -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that have a name with that prefix."""
    lines = (Path(config.workdir) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if any(k.startswith(prefix) for k in row)]


def losses_of(config: Config) -> list[dict[str, Any]]:
    """The train rows without what depends on the clock."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(config, "train/")]


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
