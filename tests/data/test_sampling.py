import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse.config import SYNTHETIC, Config
from jaxparse.data import sampling
from jaxparse.data.loaders import make_train_loader
from jaxparse.data.masks import write_mask
from jaxparse.data.sampling import (
    CLASSES_FILE,
    RepeatedOrder,
    count_classes,
    known_classes,
    repeat_factors,
)
from jaxparse.data.sources import make_source
from tests.pairs import make_split
from tests.refusal import refuses


def split(folder: Path, count: int = 10) -> Config:
    """Pairs 0 to count - 1, whose pictures hold their number; picture 3 alone has class 16."""
    config = replace(make_split(folder, "train", count), repeat_threshold=1.0)
    for index in range(count):
        label = np.zeros((16, 16), np.uint8)
        label[0, 0] = 16 if index == 3 else 1 if index < 4 else 255
        write_mask(folder / "train" / "train_mask" / f"{index:03d}.png", label)
    return config


def numbers(config: Config, batches: int, process: int = 0, processes: int = 1) -> list[int]:
    loader = make_train_loader(config, process, processes)
    return [int(i[0, 0, 0]) for b in itertools.islice(loader, batches) for i in b["image"]]


def test_factors_by_hand() -> None:
    """Shares: class 0 all, class 5 a quarter, class 7 a half; 0.36 of the pictures wanted."""
    present = np.zeros((4, 19), bool)
    present[:, 0] = present[0, 5] = present[:2, 7] = True
    np.testing.assert_allclose(repeat_factors(present, 0.36), [(0.36 / 0.25) ** 0.5, 1, 1, 1])
    np.testing.assert_allclose(repeat_factors(present, 1.0), [2, 2**0.5, 1, 1])
    np.testing.assert_array_equal(repeat_factors(present, 0.0), np.ones(4))
    np.testing.assert_array_equal(repeat_factors(np.zeros((2, 19), bool), 1.0), [1, 1])


@pytest.mark.parametrize("seed", [0, 7])
def test_every_picture_has_its_share_over_epochs(seed: int) -> None:
    factors = np.array([1, 2.5, 1, 1.3, 3, 1, 1.07])
    order = RepeatedOrder(factors, seed)
    epochs = np.array([np.bincount(order.epoch(e), minlength=7) for e in range(200)])
    shares = factors * 11 / factors.sum()
    assert order.length == 11 and (epochs.sum(1) == 11).all()
    assert (epochs >= np.floor(shares)).all() and (epochs <= np.floor(shares) + 1).all()
    # At most 4 too many or too few in all; independent draws differ by 7 (a standard deviation).
    np.testing.assert_allclose(epochs.sum(0), 200 * shares, atol=4)


def test_places_are_those_of_the_epochs_and_need_no_place_before_them() -> None:
    order = RepeatedOrder(np.array([1.0, 1.5, 1, 2]), 3)
    whole = np.concatenate([order.epoch(e) for e in range(3)])
    assert [RepeatedOrder(np.array([1.0, 1.5, 1, 2]), 3)[i] for i in (17, 0, 6, 11)] == [
        int(whole[i]) for i in (17, 0, 6, 11)
    ]
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    others = RepeatedOrder(np.array([1.0, 1.5, 1, 2]), 4)
    assert not np.array_equal(np.concatenate([others.epoch(e) for e in range(3)]), whole)


def test_classes_are_counted_at_the_masks_own_size(tmp_path: Path) -> None:
    config = replace(split(tmp_path), image_size=4)  # in which the single pixels are lost
    counted = count_classes(make_source(config, "train", resize_label=True), 2)
    assert counted["003"] == [0, 16] and counted["002"] == [0, 1] and counted["009"] == [0]
    drawn = Config(data_dir=SYNTHETIC, synthetic_train_count=2, image_size=32)
    source = make_source(drawn, "train")
    assert count_classes(source, 2) == {
        source.name(i): np.unique(source.label(i)).tolist() for i in range(2)
    }


def test_rare_classes_come_more_often(tmp_path: Path) -> None:
    """Factors: sqrt(10) of picture 3, sqrt(10 / 3) of 0 to 2: 15 places, of them 3.3 and 1.9."""
    taken = np.bincount(numbers(split(tmp_path), 75), minlength=10)  # 20 epochs
    factors = np.array([(10 / 3) ** 0.5] * 3 + [10**0.5] + [1] * 6)
    np.testing.assert_allclose(taken, 300 * factors / factors.sum(), atol=2)


def test_resumes_and_is_shared_by_processes_as_one(tmp_path: Path) -> None:
    config = split(tmp_path)
    whole = numbers(config, 9)
    parts = [np.reshape(numbers(config, 9, process, 2), (9, 2)) for process in range(2)]
    assert np.concatenate(parts, axis=1).ravel().tolist() == whole
    loader = make_train_loader(config)
    for _ in range(5):
        next(loader)
    resumed = make_train_loader(config)
    resumed.set_state(json.loads(json.dumps(loader.get_state())))
    assert [int(i[0, 0, 0]) for _ in range(4) for i in next(resumed)["image"]] == whole[20:]


def test_masks_are_read_once_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(split(tmp_path / "data"), workdir=str(tmp_path / "run"))
    first = numbers(config, 9)
    path = tmp_path / "run" / CLASSES_FILE
    assert json.loads(path.read_text())["003"] == [0, 16]
    monkeypatch.setattr(sampling, "count_classes", None)
    assert numbers(config, 9) == first
    for name in ("train_image", "train_mask"):
        (tmp_path / "data" / "train" / name / "004.png").unlink()
    with refuses(path, "10 pictures", "has 9", "004", "delete"):
        make_train_loader(config)
    path.write_text("{")
    with refuses(path, "not JSON", "delete"):
        make_train_loader(config)


@pytest.mark.parametrize("classes", ["3", '["3"]', "[19]", "[-1]", "[true]", "null"])
def test_counts_on_disk_are_not_trusted(tmp_path: Path, classes: str) -> None:
    path = tmp_path / CLASSES_FILE
    path.write_text(f'{{"000": [0], "001": {classes}}}')
    with refuses(path, "001", "delete"):
        sampling.read_classes(path, ["000", "001"], 19)


def test_unreadable_masks_end_the_count_or_are_skipped(tmp_path: Path) -> None:
    config = split(tmp_path)
    mask = tmp_path / "train" / "train_mask" / "005.png"
    mask.write_bytes(mask.read_bytes()[:-30])
    source = make_source(config, "train")
    with refuses(mask):
        known_classes(source, "", 2)
    assert known_classes(source, "", 2, keep_bad=True)["005"] == []
