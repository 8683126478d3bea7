"""The network that comes with the package."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from jaxparse import Parser, predict
from jaxparse.config import load_experiment
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import write_image
from jaxparse.data.masks import read_label
from jaxparse.weights.files import NETWORK_FIELDS, SHIPPED
from jaxparse.weights.find import load_network


def test_it_is_that_of_its_experiment_and_small() -> None:
    config, params, _ = load_network(SHIPPED)
    expected = load_experiment("lite0")
    for field in (*NETWORK_FIELDS, "image_mean", "image_std"):
        assert getattr(config, field) == getattr(expected, field)
    assert sum(x.size for x in jax.tree.leaves(params)) <= 6.5e6
    assert SHIPPED.stat().st_size <= 13e6
    with safe_open(SHIPPED, framework="numpy") as file:
        assert all(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118


def test_it_is_used_where_no_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, label = draw_face(0, 2, 256)
    mask = Parser.load()(image).mask
    assert (mask == label).mean() > 0.5  # it was trained on photographs alone
    write_image(tmp_path / "face.png", image)
    flags = ("--input", str(tmp_path / "face.png"), "--output", str(tmp_path / "out"))
    monkeypatch.setattr(sys, "argv", ["predict", *flags])
    assert predict.main() == 0
    assert capsys.readouterr().err.startswith("no --weights: ")
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "face.png"), mask)
