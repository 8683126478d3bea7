import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import cli, evaluate
from jaxparse.classes import LABEL_ORDERS, MIRRORED
from jaxparse.data.images import read_label, write_mask
from jaxparse.parsing import parser
from jaxparse.scoring.counts import count, total
from jaxparse.scoring.scores import Scores, joined_scores, picture_f1
from tests.conftest import Nano
from tests.faces import SIZES, write_faces


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data"))


@pytest.fixture
def command(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict, str]]:
    """Runs the command line; its exit code, results.json and what it printed."""
    step = lambda config: lambda params, batch_stats, image: nano.network(image)  # noqa: E731
    monkeypatch.setattr(parser, "make_logits_step", step)
    output = tmp_path / "results.json"

    def run(*flags: object) -> tuple[int, dict, str]:
        output.unlink(missing_ok=True)
        flags = map(str, (*flags, "--output", output))
        monkeypatch.setattr(sys, "argv", ["evaluate", *flags])
        with pytest.raises(SystemExit) as caught:
            cli.run(evaluate.main)
        written = json.loads(output.read_text()) if output.exists() else {}
        return caught.value.code, written, "".join(capsys.readouterr())

    return run


def parsed(nano: Nano, data_dir: Path, **settings: object) -> dict[str, np.ndarray]:
    """The masks of the network, by file name."""
    arrays = nano.params, nano.batch_stats
    network = parser.Parser(nano.config, *arrays, parser.TestTime(**settings))
    paths = sorted((data_dir / "val" / "images").iterdir())
    return {path.name: result.mask for path, result in zip(paths, network(paths), strict=True)}


def test_scores_a_network(nano: Nano, command: Callable, data_dir: Path) -> None:
    flags = ("--weights", nano.weights, "--data-dir", data_dir)
    code, written, printed = command("--exp", nano.experiment, *flags)
    assert code == 0
    masks = parsed(nano, data_dir)
    counts = total(
        count(read_label(data_dir / "val" / "masks" / name), mask) for name, mask in masks.items()
    )
    assert counts.confusion.sum() == sum(height * (width - 5) for height, width in SIZES)
    wanted = Scores.of(*counts)
    assert written["mIoU"] == pytest.approx(100 * wanted.mean_iou, abs=1e-4)
    assert written["mF1"] == pytest.approx(100 * wanted.summary()["mF1"], abs=1e-4)
    assert written["BoundaryIoU"]["skin"] == pytest.approx(100 * wanted.boundary_iou[1], abs=1e-4)
    joined = written["left_right_joined"]["mIoU"]
    assert joined == pytest.approx(100 * joined_scores(counts.confusion).mean_iou, abs=1e-4)
    confusions = [
        count(read_label(data_dir / "val" / "masks" / name), mask).confusion
        for name, mask in masks.items()
    ]
    wanted_f1 = 100 * picture_f1(np.stack(confusions)).mean()
    assert written["F1_of_pictures"] == pytest.approx(wanted_f1, abs=1e-4)
    low, high = written["mIoU_interval"]
    assert low < written["mIoU"] < high
    assert (written["pictures"], written["split"]) == (7, "val")
    assert (written["data_dir"], written["weights"]) == (str(data_dir), nano.weights)
    assert f"{written['mIoU']:.2f}" in printed and "necklace" in printed
    assert "warning" not in printed


def test_flip_scores_the_averaged_masks(nano: Nano, command: Callable, data_dir: Path) -> None:
    flags = ("--weights", nano.weights, "--data-dir", data_dir, "--flip")
    code, written, _ = command("--exp", nano.experiment, *flags)
    masks = parsed(nano, data_dir, flip=True)
    assert any((mask != parsed(nano, data_dir)[name]).any() for name, mask in masks.items())
    counts = total(
        count(read_label(data_dir / "val" / "masks" / name), mask) for name, mask in masks.items()
    )
    assert written["mIoU"] == pytest.approx(100 * Scores.of(*counts).mean_iou, abs=1e-4)
    assert (code, written["test_time"]["flip"]) == (0, True)


@pytest.fixture
def masks(data_dir: Path, tmp_path: Path) -> Path:
    """Masks nearly as labelled: some pixels of each are background."""
    folder = tmp_path / "masks"
    for path in sorted((data_dir / "val" / "masks").iterdir()):
        label = read_label(path)
        label[label == 255] = 0
        label[::7] = 0
        write_mask(folder / path.name, label)
    return folder


def test_scores_masks_without_a_network(command: Callable, data_dir: Path, masks: Path) -> None:
    labels = data_dir / "val" / "masks"
    code, written, printed = command("--predictions", masks, "--labels", labels)
    counts = total(count(read_label(labels / p.name), read_label(p)) for p in masks.iterdir())
    assert code == 0
    assert written["mIoU"] == pytest.approx(100 * Scores.of(*counts).mean_iou, abs=1e-4)
    assert (written["pictures"], written["labels"]) == (7, str(labels))
    assert f"{written['mIoU']:.2f}" in printed and "warning" not in printed


def test_other_label_orders_are_read_suspected_and_refused(
    command: Callable, data_dir: Path, masks: Path, tmp_path: Path
) -> None:
    labels = data_dir / "val" / "masks"
    _, official, _ = command("--predictions", masks, "--labels", labels)
    for path in list(masks.iterdir()):
        write_mask(path, read_label(path), "zllrunning")
    both = ("--predictions", masks, "--labels", labels)
    code, _, printed = command(*both)
    assert code == 1
    assert "was written in the order zllrunning, expected official" in printed

    code, written, _ = command(*both, "--prediction-order", "zllrunning")
    assert code == 0
    assert {**written, "predictions": ""} == {**official, "predictions": ""}

    for path in masks.iterdir():  # as a tool would that leaves no note in the file
        Image.fromarray(np.asarray(Image.open(path))).save(path)
    code, written, printed = command(*both)
    assert code == 0 and written["mIoU"] < official["mIoU"] - 20
    assert "give --prediction-order zllrunning" in printed


def test_a_networks_labels_in_another_order(
    nano: Nano, command: Callable, data_dir: Path, tmp_path: Path
) -> None:
    flags = ("--exp", nano.experiment, "--weights", nano.weights, "--data-dir")
    _, official, _ = command(*flags, data_dir)
    other = write_faces(tmp_path / "other")
    for path in (other / "val" / "masks").iterdir():
        write_mask(path, read_label(path), "facer")
    code, written, _ = command(*flags, other, "--label-order", "facer")
    assert code == 0
    assert written["IoU"] == official["IoU"]


def test_orders_and_mirrors_are_permutations() -> None:
    for order in LABEL_ORDERS.values():
        assert sorted(order) == list(range(19))
    np.testing.assert_array_equal(MIRRORED[MIRRORED], np.arange(19))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data-dir", "DIR"], "DIR/val lacks its folders"),
        (["--predictions", "DIR"], "--labels"),
        (["--prediction-order", "facer"], "--predictions"),
    ],
)
def test_bad_input_ends_in_one_line(
    nano: Nano, command: Callable, tmp_path: Path, flags: list[str], words: str
) -> None:
    flags = [flag.replace("DIR", str(tmp_path)) for flag in flags]
    code, written, printed = command("--weights", nano.weights, *flags)
    assert code == 1 and not written
    assert words.replace("DIR/", f"{tmp_path}/") in printed
    assert printed.startswith("error: ") and printed.count("\n") == 1


def test_pictures_come_with_their_masks(nano: Nano, data_dir: Path) -> None:
    config = replace(nano.config, data_dir=str(data_dir))
    source = evaluate.make_source(config, "val")
    network = parser.Parser(config, nano.params, nano.batch_stats)
    found = list(evaluate.evaluate_pictures(network, source, num_workers=2))
    assert [parsing.mask.shape for parsing, _ in found] == SIZES
    for index, (parsing, counts) in enumerate(found):
        np.testing.assert_array_equal(parsing.label, source.read(index)[1])
        wanted = count(parsing.label, parsing.mask)
        np.testing.assert_array_equal(counts.confusion, wanted.confusion)
