import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import cli, evaluate
from jaxparse.classes import CELEBAMASK, convert_label, exchange_sides, load_classes
from jaxparse.data.masks import read_label, write_mask
from jaxparse.parsing.parser import Parser, TestTime
from jaxparse.scoring.counts import Counts, count, total
from jaxparse.scoring.scores import Scores, joined_scores, picture_f1
from tests.conftest import Nano
from tests.faces import SIZES, write_faces
from tests.parsed import share_program


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data"))


@pytest.fixture
def command(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict, str]]:
    """Runs the command line; its exit code, results.json and what it printed."""
    share_program(monkeypatch, nano)
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


def counts_of(nano: Nano, data_dir: Path, **settings: object) -> list[Counts]:
    """Counts of the network's mask of every picture."""
    parser = Parser(nano.config, nano.params, nano.batch_stats, TestTime(**settings))
    images, masks = (sorted((data_dir / "val" / name).iterdir()) for name in ("images", "masks"))
    pairs = zip(masks, parser(images), strict=True)
    return [count(read_label(mask), parsing.mask, 19) for mask, parsing in pairs]


def test_scores_a_network(nano: Nano, command: Callable, data_dir: Path) -> None:
    flags = ("--weights", nano.weights, "--data-dir", data_dir)
    code, written, printed = command("--exp", nano.experiment, *flags)
    assert code == 0
    counts = counts_of(nano, data_dir)
    confusion, boundary = total(counts)
    assert confusion.sum() == sum(height * (width - 5) for height, width in SIZES)
    expected = Scores.of(confusion, boundary)
    f1_of_pictures = picture_f1(np.stack([one.confusion for one in counts])).mean()
    for found, share in [
        (written["mIoU"], expected.mean_iou),
        (written["mF1"], expected.summary()["mF1"]),
        (written["BoundaryIoU"]["skin"], expected.boundary_iou[1]),
        (written["left_right_joined"]["mIoU"], joined_scores(confusion, CELEBAMASK).mean_iou),
        (written["F1_of_pictures"], f1_of_pictures),
    ]:
        assert found == pytest.approx(100 * share, abs=1e-4)
    low, high = written["mIoU_interval"]
    assert low < written["mIoU"] < high
    assert (written["pictures"], written["split"]) == (7, "val")
    assert (written["data_dir"], written["weights"]) == (str(data_dir), nano.weights)
    assert f"{written['mIoU']:.2f}" in printed and "necklace" in printed
    assert "warning" not in printed


def test_flip_scores_the_averaged_masks(nano: Nano, command: Callable, data_dir: Path) -> None:
    flags = ("--weights", nano.weights, "--data-dir", data_dir, "--flip")
    code, written, _ = command("--exp", nano.experiment, *flags)
    plain, flipped = (total(counts_of(nano, data_dir, flip=flip)) for flip in (False, True))
    assert (plain.confusion != flipped.confusion).any()
    assert written["mIoU"] == pytest.approx(100 * Scores.of(*flipped).mean_iou, abs=1e-4)
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
    counts = total(count(read_label(labels / p.name), read_label(p), 19) for p in masks.iterdir())
    assert code == 0
    assert written["mIoU"] == pytest.approx(100 * Scores.of(*counts).mean_iou, abs=1e-4)
    assert (written["pictures"], written["labels"]) == (7, str(labels))
    assert f"{written['mIoU']:.2f}" in printed and "warning" not in printed


def test_other_label_orders_are_read_suspected_and_refused(
    command: Callable, data_dir: Path, masks: Path
) -> None:
    labels = data_dir / "val" / "masks"
    _, official, _ = command("--predictions", masks, "--labels", labels)
    for path in list(masks.iterdir()):
        zllrunning = load_classes("zllrunning")
        write_mask(path, convert_label(read_label(path), CELEBAMASK, zllrunning), zllrunning)
    both = ("--predictions", masks, "--labels", labels)
    code, _, printed = command(*both)
    assert code == 1
    assert all(word in printed for word in (str(masks), "zllrunning", "celebamask"))

    code, written, _ = command(*both, "--predictions-are", "zllrunning")
    assert code == 0
    assert {**written, "predictions": ""} == {**official, "predictions": ""}

    for path in masks.iterdir():  # as a tool would that leaves no note in the file
        Image.fromarray(np.asarray(Image.open(path))).save(path)
    code, written, printed = command(*both)
    assert code == 0 and written["mIoU"] < official["mIoU"]
    assert "--predictions-are zllrunning" in printed


def test_exchanged_sides_are_suspected(command: Callable, data_dir: Path, masks: Path) -> None:
    labels = data_dir / "val" / "masks"
    for path in masks.iterdir():  # all right but for the sides; the labels' ignored pixels as skin
        label = read_label(labels / path.name)
        write_mask(
            path, np.where(label == 255, 1, exchange_sides(label, CELEBAMASK)).astype(np.uint8)
        )
    code, written, printed = command("--predictions", masks, "--labels", labels)
    assert code == 0 and written["left_right_joined"]["mIoU"] == 100 > written["mIoU"]
    assert "warning: left and right look exchanged" in printed and "order" not in printed


def test_a_networks_labels_in_another_order(
    nano: Nano, command: Callable, data_dir: Path, tmp_path: Path
) -> None:
    flags = ("--exp", nano.experiment, "--weights", nano.weights, "--data-dir")
    _, official, _ = command(*flags, data_dir)
    other = write_faces(tmp_path / "other")
    for path in (other / "val" / "masks").iterdir():
        facer = load_classes("facer")
        write_mask(path, convert_label(read_label(path), CELEBAMASK, facer), facer)
    code, written, _ = command(*flags, other, "--labels-are", "facer")
    assert code == 0
    assert written["IoU"] == official["IoU"]


def test_a_network_is_scored_in_merged_classes(
    nano: Nano, command: Callable, data_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "hair.json"
    table = {"names": ["other", "hair"], "from": {"celebamask": {"*": "other"}}}
    path.write_text(json.dumps(table))
    hair = load_classes(path)
    flags = ("--exp", nano.experiment, "--weights", nano.weights, "--data-dir", data_dir)
    code, written, printed = command(*flags, "--classes", path)
    assert code == 0 and written["classes"] == "hair" and "joined" not in printed
    parser = Parser(nano.config, nano.params, nano.batch_stats, classes=hair)
    images, masks = (sorted((data_dir / "val" / name).iterdir()) for name in ("images", "masks"))
    pairs = zip(masks, parser(images), strict=True)
    counts = total(count(read_label(m, hair, CELEBAMASK), p.mask, 2) for m, p in pairs)
    expected = 100 * Scores.of(*counts, hair.names).iou
    assert [*written["IoU"].values()] == pytest.approx(expected.tolist(), abs=1e-4)
    assert [*written["IoU"]] == ["other", "hair"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "WEIGHTS", "--data-dir", "DIR"], ["DIR/val"]),
        (["--weights", "WEIGHTS", "--predictions", "DIR"], ["--predictions", "--labels"]),
        (["--labels", "DIR"], ["--predictions", "--labels"]),
        (["--weights", "WEIGHTS", "--predictions-are", "facer"], ["--predictions"]),
        ([], ["--weights", "--predictions"]),
    ],
)
def test_bad_input_ends_in_one_line(
    nano: Nano, command: Callable, tmp_path: Path, flags: list[str], words: list[str]
) -> None:
    def fill(word: str) -> str:
        return word.replace("WEIGHTS", nano.weights).replace("DIR", str(tmp_path))

    code, written, printed = command(*map(fill, flags))
    assert code == 1 and not written
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert all(fill(word) in printed for word in words)
