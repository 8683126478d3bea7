from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from PIL import Image

from jaxparse.classes import CELEBAMASK
from jaxparse.data import loaders
from jaxparse.data.loaders import EvalLoader
from jaxparse.parsing.labelled import evaluate_pictures
from jaxparse.parsing.network import predict_label
from jaxparse.parsing.overlay import colourise
from jaxparse.parsing.parser import Parser
from jaxparse.scoring.counts import total
from jaxparse.training import validation
from jaxparse.training.validation import confusion_of, make_eval_step, write_examples
from tests.conftest import Nano
from tests.faces import SIZES, write_faces
from tests.pairs import make_pair


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("block", [512, 48])
def test_counts_what_the_parser_predicts(
    nano: Nano, data_dir: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "BLOCK", block)
    config = replace(nano.config, data_dir=str(data_dir))
    weights = nano.params, nano.batch_stats
    loader, done = EvalLoader(config), []
    confusion = confusion_of(make_eval_step(config, loader.block), *weights, loader, done.append)
    assert confusion.dtype == np.int64
    assert done == [4, 7]
    # The places after the last picture add nothing: labelled pixels are those of the masks.
    assert confusion.sum() == sum(height * (width - 5) for height, width in SIZES)
    evaluated = evaluate_pictures(Parser(config, *weights), loader.source, num_workers=2)
    counted = total(counts for _, counts in evaluated).confusion
    assert np.abs(confusion - counted).sum() <= 2  # a pixel may flip by rounding
    assert (counted.sum(0) > 0).sum() >= 4  # predictions are varied


def test_pictures_of_all_sizes_share_two_programs(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "BLOCK", 32)
    for index, size in enumerate([(70, 20), (8, 30), (33, 65), (128, 1)]):
        make_pair(tmp_path, "val", index, size)
    loader = EvalLoader(replace(nano.config, data_dir=str(tmp_path), batch_size=1))
    compiled = []
    monkeypatch.setattr(jax, "jit", lambda f, jit=jax.jit: compiled.append(jit(f)) or compiled[-1])
    eval_step = make_eval_step(replace(nano.config, batch_size=1), loader.block)
    confusion_of(eval_step, nano.params, nano.batch_stats, loader)
    sizes = [program._cache_size() for program in compiled]
    assert sorted(sizes) == [0, 1, 1]  # 0: make_logits_step's own, which is part of the network's


def test_sums_more_pixels_than_int32_holds(nano: Nano, data_dir: Path) -> None:
    def full(*_: object) -> Array:
        return jnp.full((19, 19), 2**31 - 1, jnp.int32)

    loader = EvalLoader(replace(nano.config, data_dir=str(data_dir)))
    assert (confusion_of(full, {}, {}, loader) == 2 * (2**31 - 1)).all()


def test_examples_show_picture_truth_and_prediction(
    nano: Nano, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        validation, "make_logits_step", lambda config: lambda *args: nano.network(args[2])
    )
    loader = EvalLoader(replace(nano.config, data_dir=str(data_dir)))
    path = tmp_path / "examples.png"
    write_examples(path, nano.config, nano.params, nano.batch_stats, loader)
    grid = np.asarray(Image.open(path))[18 : 18 + 4 * 64, : 3 * 64]
    batch = next(iter(loader))
    logits = nano.network(batch["image"])
    cells = grid.reshape(4, 64, 3, 64, 3).swapaxes(1, 2)  # picture, column, height, width, RGB
    for row, (picture, truth, prediction) in enumerate(cells):
        np.testing.assert_array_equal(picture, batch["image"][row])
        height, width = batch["size"][row]
        y, x = (np.arange(64) + 0.5) * height // 64, (np.arange(64) + 0.5) * width // 64
        label = batch["label"][row][np.ix_(y.astype(int), x.astype(int))]
        np.testing.assert_array_equal(truth, colourise(label, CELEBAMASK))
        wanted = colourise(predict_label(logits[row], np.array([64, 64]), (64, 64)), CELEBAMASK)
        assert (prediction == wanted).mean() > 0.999


def test_examples_leave_out_the_places_after_the_last_picture(
    nano: Nano, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        validation, "make_logits_step", lambda config: lambda *args: nano.network(args[2])
    )
    loader = EvalLoader(replace(nano.config, data_dir=str(data_dir)))
    last = list(loader)[-1]
    monkeypatch.setattr(type(loader), "__iter__", lambda self: iter([last]))
    write_examples(tmp_path / "x.png", nano.config, nano.params, nano.batch_stats, loader)
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    assert (sheet[18 + 3 * 64 :, : 3 * 64] == 255).all()  # three pictures, then white
