from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse.devices import make_mesh
from jaxparse.training.steps import init_state, start_state
from jaxparse.weights.files import flatten, save_weights
from tests.runs import CONFIG


@pytest.mark.parametrize("whole", [True, False])
def test_starts_from_the_weights_of_a_backbone_or_a_segmentor(whole: bool, tmp_path: Path) -> None:
    initial = init_state(CONFIG, make_mesh())
    before = flatten(initial.params) | flatten(initial.batch_stats)
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
