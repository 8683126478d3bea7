import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grain.checkpoint import CheckpointSave
from orbax.checkpoint import CheckpointManager
from orbax.checkpoint.args import Composite, StandardSave

from jaxparse.config import Config
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import make_mesh
from jaxparse.training.checkpoint import Checkpoints
from jaxparse.training.steps import TrainState, init_state
from tests.disks import largest
from tests.refusal import refuses
from tests.runs import CONFIG


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


@pytest.mark.parametrize("harm", ["truncate", "delete", "empty_item", "unsealed"])
def test_damage_of_each_kind_is_found(
    finished: tuple[Config, str], tmp_path: Path, harm: str
) -> None:
    (whole, _), checkpoints = finished, tmp_path / "checkpoints"
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


def test_a_checkpoints_times_of_another_type_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "3"
    folder.mkdir(parents=True)
    (folder / "_CHECKPOINT_METADATA").write_text('{"init_timestamp_nsecs": "yesterday"}')
    with refuses(folder.parent, "int", "restore it"):
        Checkpoints(tmp_path)
