"""The command: a small network to each format, run beside JAX; refusals; metadata."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse import export
from jaxparse.config import Config, load_experiment
from jaxparse.exporting import check, stablehlo
from jaxparse.models import split_model
from jaxparse.weights.files import flatten, save_weights
from tests.conftest import Nano, noise
from tests.refusal import refuses

ONNX = 'needs the libraries of pip install "jaxparse[onnx]"'


def needs_onnx() -> None:
    for library in export.LIBRARIES["onnx"]:
        pytest.importorskip(library, reason=ONNX)


def small(experiment: str) -> Config:
    """The experiment's network for 64×64, with few channels in its head."""
    return replace(load_experiment(experiment), image_size=64, head_channels=32)


def weights_of(config: Config, path: Path) -> str:
    """A file of random weights."""
    _, *trees = split_model(config)
    rng = np.random.default_rng(0)
    arrays = {k: noise(rng, k, a.shape) for tree in trees for k, a in flatten(tree).items()}
    save_weights(path, arrays, config, "random")
    return str(path)


def test_stablehlo_gives_the_masks_of_jax(
    nano: Nano, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "new" / "nano.zip"
    export.export(nano.weights, to="stablehlo", output=output, probabilities=True)
    assert [str(path) for path in output.parent.iterdir()] == [str(output)]
    assert str(output) in capsys.readouterr().out
    image, expected = check.reference(nano.config, flatten(nano.params) | flatten(nano.batch_stats))
    outputs = stablehlo.load(output)(image)
    assert outputs["mask"].dtype == np.uint8 and outputs["mask"].shape == (2, 64, 64)
    np.testing.assert_array_equal(outputs["mask"], expected["mask"])
    np.testing.assert_allclose(outputs["probabilities"].sum(1), 1, rtol=1e-5)
    with zipfile.ZipFile(output) as file:
        about = json.loads(file.read(stablehlo.METADATA))
    assert json.loads(about["classes"]) == list(nano.config.classes.names)
    assert json.loads(about["colours"])[1] == list(nano.config.classes.colours[1])
    assert "[N, 64, 64, 3]" in about["input"] and about["resize_filter"] == "bilinear"


@pytest.mark.parametrize("difference, masks", [(2e-4, 1.0), (0.0, 0.9998), (np.nan, 1.0)])
def test_a_file_that_differs_is_refused(difference: float, masks: float) -> None:
    check.require_agreement(check.Agreement(1e-4, 0.9999), "float32")
    with refuses("nothing was written"):
        check.require_agreement(check.Agreement(difference, masks), "float32")


def test_comparison_counts_pixels_and_the_largest_difference() -> None:
    expected = {
        "mask": np.zeros((2, 2, 5), np.uint8),
        "probabilities": np.full((2, 1, 2, 5), 0.5, np.float32),
    }

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = {name: array.copy() for name, array in expected.items()}
        outputs["mask"][0, :, 0] = 1
        outputs["probabilities"][1, 0, 1, 1] += 0.25
        return outputs

    found = check.compare(run, np.zeros((2, 2, 5, 3), np.uint8), expected)
    assert found == check.Agreement(0.25, 0.9)


def test_nothing_is_left_of_a_refused_export(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(exported: export.Export, path: Path, probabilities: bool) -> None:
        path.write_bytes(b"half of it")
        raise ValueError("the exported network differs from JAX")

    monkeypatch.setattr(export, "write_checked", differs)
    with refuses("differs from JAX"):
        export.export(nano.weights, to="stablehlo", output=tmp_path / "nano.zip")
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named_with_its_extra(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.util, "find_spec", lambda name: None)
    with refuses("onnxruntime", 'pip install "jaxparse[onnx]"'):
        export.export(nano.weights, to="onnx", output=tmp_path / "nano.onnx")


def test_tflite_refuses_a_transformer(nano: Nano, tmp_path: Path) -> None:
    with refuses("erf", "convolutional", "--to onnx"):
        export.export(nano.weights, to="tflite", output=tmp_path / "nano.tflite")
    assert not list(tmp_path.iterdir())


def test_onnx_holds_the_classes_and_takes_any_number_of_pictures(
    nano: Nano, tmp_path: Path
) -> None:
    needs_onnx()
    import onnx

    output = tmp_path / "nano.onnx"
    export.export(
        nano.weights, to="onnx", output=output, probabilities=True
    )  # compares two pictures
    image = np.zeros((3, 64, 64, 3), np.uint8)
    assert export.load("onnx", output)(image)["mask"].shape == (3, 64, 64)
    model = onnx.load(output)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["N", 64, 64, 3]
    assert [item.name for item in model.graph.output] == ["mask", "probabilities"]
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["classes"])[1] == "skin" and about["normalisation"] == "inside"


FAMILIES = (
    "tiny",
    "swin_nano",
    "deeplabv3plus_r50_20k",
    "psanet_r50_80k",
    "segformer_b0",
    "bisenet_r18",
    "segface_swin_b",
    "farl_vit_b16",
    "parsenet",
)


@pytest.mark.full
@pytest.mark.parametrize("experiment", FAMILIES)
def test_every_network_becomes_onnx(experiment: str, tmp_path: Path) -> None:
    needs_onnx()
    weights = weights_of(small(experiment), tmp_path / "random.safetensors")
    output = tmp_path / "network.onnx"
    export.export(weights, to="onnx", output=output)
    outputs = export.load("onnx", output)(np.zeros((1, 64, 64, 3), np.uint8))
    assert list(outputs) == ["mask"]


@pytest.mark.full
@pytest.mark.parametrize("experiment", ["tiny", "deeplabv3plus_r50_20k"])
def test_convolutional_networks_become_tflite(experiment: str, tmp_path: Path) -> None:
    weights = weights_of(small(experiment), tmp_path / "random.safetensors")
    export.export(weights, to="tflite", output=tmp_path / "network.tflite")
    with zipfile.ZipFile(tmp_path / "network.tflite") as file:
        assert "classes" in json.loads(file.read("metadata.json"))
