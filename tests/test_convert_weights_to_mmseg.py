"""`convert_weights --to mmseg`: the way back undoes the way here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.config import Config, load_experiment, save_config
from jaxparse.convert_weights import convert_file
from jaxparse.models import split_model
from jaxparse.weights.conversion import convert, to_mmseg
from jaxparse.weights.files import flatten, read_weights, save_weights
from jaxparse.weights.names import recognise
from jaxparse.weights.naming import rename
from tests import foreign, reference
from tests.foreign import StateDict, require_equal, write
from tests.refusal import refuses
from tests.tables import COUNTS
from tests.tables import numbered as classes_numbered

NANO = load_experiment("swin_nano")
DEEPLAB = load_experiment("deeplabv3plus_r50_20k")
B0 = load_experiment("segformer_b0")


@pytest.mark.parametrize("file", [file for file in reference.SHAPES if file.startswith("mmseg_")])
def test_way_back_has_every_key_and_shape_of_mmseg(file: str) -> None:
    shapes = reference.SHAPES[file]
    naming = recognise("f", shapes)
    # Views of a single number, whatever the shape.
    zeros = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    parameters = {k: v for k, v in zeros.items() if not k.endswith(reference.BUFFERS)}
    arrays = dict(rename(naming, key, array) for key, array in parameters.items())
    name = file.removeprefix("mmseg_")
    config = load_experiment(reference.EXPERIMENTS.get(name, name))
    back = to_mmseg(arrays, config)
    assert {key: list(array.shape) for key, array in back.items()} == shapes


def test_networks_that_mmseg_lacks_have_no_way_back() -> None:
    with refuses("resnet_slim", "mmseg"):
        to_mmseg({}, load_experiment("tiny"))
    with refuses("segformer_mmseg", "--to mmseg"):
        to_mmseg({}, B0)


def numbered(shapes: dict[str, tuple[int, ...]], start: int) -> StateDict:
    """Arrays of whole numbers, no two the same within one."""
    return {
        key: start + i + np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        for i, (key, shape) in enumerate(shapes.items())
    }


@pytest.mark.parametrize(
    "make, config",
    [
        (foreign.mmseg, NANO),
        (lambda: reference.state_dict("mmseg_psanet_r50"), load_experiment("psanet_r50_80k")),
        (foreign.mmseg_plain_resnet, replace(DEEPLAB, backbone="resnet50")),
        (foreign.mmseg_segformer, replace(B0, head="segformer_mmseg", head_channels=16)),
    ],
)
def test_round_trips_are_the_identity(make: Callable[[], StateDict], config: Config) -> None:
    _, params, batch_stats = split_model(config)
    shapes = {k: v.shape for k, v in (flatten(params) | flatten(batch_stats)).items()}
    ours = numbered(shapes, 7)
    require_equal(convert("f", to_mmseg(ours, config), config).arrays, ours)
    theirs = {k: v for k, v in make().items() if not k.endswith("relative_position_index")}
    back = to_mmseg(convert("f", theirs, config).arrays, config)
    indices = [back.pop(key) for key in list(back) if key.endswith("relative_position_index")]
    require_equal({k: v.astype("f4") for k, v in back.items()}, theirs)
    for index in indices:  # of offsets (row + 6) * 13 + column + 6
        assert index.dtype == np.int64
        assert index[0, 0] == index[48, 48] == 84
        assert (index[0, 48], index[48, 0], index[0, 1], index[0, 7]) == (0, 168, 83, 71)


def test_way_back_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason=foreign.NEEDS_TORCH)
    monkeypatch.chdir(tmp_path)
    arrays = convert("f", foreign.mmseg(), NANO).arrays
    run = tmp_path / "run"
    save_config(NANO, run)
    save_weights(run / "best.safetensors", arrays, NANO, "a test")
    convert_file("swin_nano", str(run), to="mmseg")
    assert "init_model(CONFIG, 'weights/swin_nano_mmseg.pth')" in capsys.readouterr().out
    content = torch.load("weights/swin_nano_mmseg.pth", weights_only=True)
    assert content["meta"]["dataset_meta"]["classes"] == list(CELEBAMASK.names)
    assert content["meta"]["PALETTE"] == CELEBAMASK.palette.tolist()
    numpy = {key: tensor.numpy() for key, tensor in content["state_dict"].items()}
    require_equal(numpy, to_mmseg(arrays, NANO))
    convert_file("swin_nano", "weights/swin_nano_mmseg.pth", Path("again.safetensors"))
    require_equal(read_weights("again.safetensors")[0], arrays)


def test_way_back_needs_a_whole_segmentor_of_ours(tmp_path: Path) -> None:
    theirs = write(tmp_path / "theirs.safetensors", foreign.timm())
    with refuses(theirs, "jaxparse.convert_weights --checkpoint"):
        convert_file("swin_nano", str(theirs), to="mmseg")
    ours = tmp_path / "ours.safetensors"
    convert_file("swin_nano", str(theirs), ours)
    with refuses(ours, "backbone.norm0.", "--init-weights"):
        convert_file("swin_nano", str(ours), to="mmseg")
    with refuses(tmp_path, "ours.safetensors", "theirs.safetensors"):
        convert_file("swin_nano", str(tmp_path), to="mmseg")
    with refuses("--to mmseg", "--weights"):
        convert_file("swin_nano", to="mmseg")


@pytest.mark.parametrize("count", COUNTS)
def test_networks_of_any_classes_come_back(count: int, tmp_path: Path) -> None:
    config = replace(NANO, classes=classes_numbered(count))
    _, *shapes = split_model(config)
    arrays = numbered({k: v.shape for x in shapes for k, v in flatten(x).items()}, 1)
    theirs = to_mmseg(arrays, config)
    assert theirs["decode_head.conv_seg.weight"].shape[0] == count
    back = convert("f", theirs, classes=config.classes)
    assert back.config.classes == config.classes
    require_equal(back.arrays, arrays)
    if count != 19:
        with refuses("f", f"{count} classes", "--classes", "--fresh-classifier"):
            convert("f", theirs)
