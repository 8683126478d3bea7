import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from PIL import Image

from jaxparse import cli, evaluate
from jaxparse.data import make_eval_loader
from jaxparse.images import read_label, write_image, write_mask
from jaxparse.overlay import colourise
from jaxparse.predict import predict_files, predict_tiled
from jaxparse.scoring import scores
from jaxparse.steps import make_eval_step
from jaxparse.synthetic import draw_face
from tests.conftest import Nano

# All in the same padded size, so that one program evaluates them: 4 + 3 in batches of 4.
SIZES = [(64, 64), (37, 91), (64, 128), (50, 70), (33, 65), (1, 128), (60, 100)]


@pytest.fixture(scope="module")
def eval_step(nano: Nano) -> Callable[..., Array]:
    return make_eval_step(nano.config)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces, stretched to many sizes, a part of every mask ignored."""
    folder = tmp_path_factory.mktemp("data")
    for index, (height, width) in enumerate(SIZES):
        image, label = map(Image.fromarray, draw_face(0, index, 64))
        label = np.array(label.resize((width, height), Image.Resampling.NEAREST))
        label[:, -5:] = 255
        image = np.asarray(image.resize((width, height)))
        write_image(folder / "val" / "images" / f"{index}.png", image)
        write_mask(folder / "val" / "masks" / f"{index}.png", label)
    return folder


@pytest.fixture(scope="module")
def counted(nano: Nano, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The confusion matrix of predict's masks, counted by numpy."""
    output = tmp_path_factory.mktemp("masks")
    paths = sorted((data_dir / "val" / "images").iterdir())
    assert not list(predict_files(nano.config, nano.network, paths, output, [".png"]))
    confusion = np.zeros((19, 19), np.int64)
    for path in paths:
        label = read_label(data_dir / "val" / "masks" / path.name)
        pair = label, np.asarray(Image.open(output / path.name))
        np.add.at(confusion, tuple(x[label != 255] for x in pair), 1)
    return confusion


def test_evaluate_counts_what_predict_writes(
    nano: Nano, eval_step: Callable[..., Array], data_dir: Path, counted: np.ndarray
) -> None:
    loader = make_eval_loader(replace(nano.config, data_dir=str(data_dir)))
    done = []
    confusion = evaluate.evaluate(eval_step, nano.params, nano.batch_stats, loader, done.append)
    assert confusion.dtype == np.int64
    assert done == [4, 7]
    # The places after the last picture add nothing: labelled pixels are those of the masks.
    assert confusion.sum() == sum(height * (width - 5) for height, width in SIZES)
    assert np.abs(confusion - counted).sum() <= 2  # a pixel may flip by rounding
    assert (counted.sum(0) > 0).sum() >= 4  # predictions are varied


def test_evaluate_sums_more_pixels_than_int32_holds(nano: Nano, data_dir: Path) -> None:
    def full(*_: object) -> Array:
        return jnp.full((19, 19), 2**31 - 1, jnp.int32)

    loader = make_eval_loader(replace(nano.config, data_dir=str(data_dir)))
    confusion = evaluate.evaluate(full, {}, {}, loader)
    assert (confusion == 2 * (2**31 - 1)).all()


def test_command_prints_the_table_and_writes_results(
    nano: Nano,
    eval_step: Callable[..., Array],
    data_dir: Path,
    counted: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evaluate, "make_eval_step", lambda config: eval_step)
    monkeypatch.chdir(tmp_path)
    flags = ["--exp", nano.experiment, "--weights", nano.weights, "--data-dir", str(data_dir)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags])
    with pytest.raises(SystemExit) as caught:
        cli.run(evaluate.main)
    assert caught.value.code == 0
    written = json.loads((tmp_path / "results.json").read_text())
    wanted = scores(counted)
    assert written["mIoU"] == pytest.approx(100 * wanted.mean_iou, abs=0.01)
    assert written["Acc"]["skin"] == pytest.approx(100 * wanted.accuracy[1], abs=0.01)
    assert (written["pictures"], written["split"]) == (7, "val")
    assert (written["data_dir"], written["weights"]) == (str(data_dir), nano.weights)
    printed = capsys.readouterr().out
    assert f"{written['mIoU']:.2f}" in printed and "necklace" in printed


def test_bad_data_ends_in_one_line(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--exp", nano.experiment, "--weights", nano.weights, "--data-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags])
    with pytest.raises(SystemExit) as caught:
        cli.run(evaluate.main)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'val'} lacks its folders")
    assert error.count("\n") == 1


def test_results_are_written_whole(tmp_path: Path) -> None:
    evaluate.write_results(tmp_path / "r.json", {"mIoU": 58.3333, "IoU": {"nose": None}})
    written = json.loads((tmp_path / "r.json").read_text())
    assert written == {"mIoU": 58.3333, "IoU": {"nose": None}}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_examples_show_picture_truth_and_prediction(
    nano: Nano, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        evaluate, "make_logits_step", lambda config: lambda *args: nano.network(args[2])
    )
    loader = make_eval_loader(replace(nano.config, data_dir=str(data_dir)))
    path = tmp_path / "examples.png"
    evaluate.write_examples(path, nano.config, nano.params, nano.batch_stats, loader)
    grid = np.asarray(Image.open(path))[18 : 18 + 4 * 64, : 3 * 64]
    batch = next(iter(loader))
    logits = nano.network(batch["image"])
    cells = grid.reshape(4, 64, 3, 64, 3).swapaxes(1, 2)  # picture, column, height, width, RGB
    for row, (picture, truth, prediction) in enumerate(cells):
        np.testing.assert_array_equal(picture, batch["image"][row])
        height, width = batch["size"][row]
        y, x = (np.arange(64) + 0.5) * height // 64, (np.arange(64) + 0.5) * width // 64
        label = batch["label"][row][np.ix_(y.astype(int), x.astype(int))]
        np.testing.assert_array_equal(truth, colourise(label))
        wanted = colourise(predict_tiled(logits[row], (64, 64)))
        assert (prediction == wanted).mean() > 0.999


def test_examples_leave_out_the_places_after_the_last_picture(
    nano: Nano, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        evaluate, "make_logits_step", lambda config: lambda *args: nano.network(args[2])
    )
    loader = make_eval_loader(replace(nano.config, data_dir=str(data_dir)))
    last = list(loader)[-1]
    monkeypatch.setattr(type(loader), "__iter__", lambda self: iter([last]))
    evaluate.write_examples(tmp_path / "x.png", nano.config, nano.params, nano.batch_stats, loader)
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    assert (sheet[18 + 3 * 64 :, : 3 * 64] == 255).all()  # three pictures, then white
