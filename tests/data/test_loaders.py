import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxparse.config import SYNTHETIC, Config
from jaxparse.data import loaders
from jaxparse.data.masks import write_mask
from tests.pairs import make_pair, make_split
from tests.refusal import refuses


def shown(batches: list[dict]) -> list[int]:
    """The numbers of the pictures in the batches, in order."""
    return [int(image[0, 0, 0]) for batch in batches for image in batch["image"]]


def test_train_batches_have_the_shapes_and_types(tmp_path: Path) -> None:
    config = make_split(tmp_path, "train", 3)
    batch = next(loaders.make_train_loader(config))
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 16, 16, 3), np.uint8),
        "label": ((4, 16, 16), np.uint8),
    }
    np.testing.assert_array_equal(batch["image"][..., 0], batch["label"])  # pairs stay together


def test_every_epoch_is_a_new_order_given_by_the_seed(tmp_path: Path) -> None:
    config = make_split(tmp_path, "train", 12)
    orders = [shown(list(itertools.islice(loaders.make_train_loader(config), 9))) for _ in range(2)]
    assert orders[0] == orders[1]
    epochs = [orders[0][i : i + 12] for i in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    others = [Config(**{**vars(config), "seed": seed}) for seed in (1, 2)]
    firsts = [
        shown(list(itertools.islice(loaders.make_train_loader(other), 3))) for other in others
    ]
    assert not any(first in epochs for first in firsts) and firsts[0] != firsts[1]


@pytest.mark.parametrize("taken", [1, 3])
def test_state_resumes_exactly_across_epochs(tmp_path: Path, taken: int) -> None:
    config = make_split(tmp_path, "train", 6)
    loader = loaders.make_train_loader(config)
    for _ in range(taken):
        next(loader)
    state = json.dumps(loader.get_state())
    expected = list(itertools.islice(loader, 5))
    resumed = loaders.make_train_loader(config)
    resumed.set_state(json.loads(state))
    for ours, theirs in zip(itertools.islice(resumed, 5), expected, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["label"], theirs["label"])


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("count", [3, 9])
def test_batches_of_the_processes_are_together_that_of_one(
    tmp_path: Path, count: int, processes: int
) -> None:
    """In every step, across the ends of epochs, also where nothing divides."""
    config = make_split(tmp_path, "train", count)
    parts_of = [loaders.make_train_loader(config, index, processes) for index in range(processes)]
    for whole in itertools.islice(loaders.make_train_loader(config), 8):
        parts = [shown([next(loader)]) for loader in parts_of]
        assert {len(part) for part in parts} == {4 // processes}
        assert list(itertools.chain(*parts)) == shown([whole])
    assert {loader.get_state()["next_index"] for loader in parts_of} == {32 // processes}


def test_processes_must_divide_the_batch(tmp_path: Path) -> None:
    config = make_split(tmp_path, "train", 3)
    with refuses("batch_size is 4", "3 processes"):
        loaders.make_train_loader(config, 0, 3)


def test_error_of_a_reading_thread_names_the_file(tmp_path: Path) -> None:
    config = make_split(tmp_path, "train", 2)
    mask = tmp_path / "train" / "train_mask" / "001.png"
    write_mask(mask, np.full((16, 16), 37, np.uint8))
    with refuses(mask, "37"):
        list(itertools.islice(loaders.make_train_loader(config), 2))


def test_eval_batches_pad_masks_and_the_tail(tmp_path: Path) -> None:
    sizes = [(70, 40), (64, 64), (20, 130), (8, 8), (16, 16)]
    for index, size in enumerate(sizes):
        make_pair(tmp_path, "val", index, size)
    config = Config(data_dir=str(tmp_path), image_size=16, batch_size=2, num_workers=2)
    loader = loaders.EvalLoader(config)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert loader.block == (70, 130)  # the largest height and width
    assert [batch["label"].shape for batch in batches] == [(2, 70, 130)] * 3
    assert np.concatenate([batch["size"] for batch in batches]).tolist() == [
        *map(list, sizes),
        [1, 1],
    ]
    assert [name for batch in batches for name in batch["name"]] == [
        "000",
        "001",
        "002",
        "003",
        "004",
        "",
    ]
    first = batches[0]["label"][0]
    assert (first[:70, :40] == 0).all() and (first == 255).sum() == 70 * 130 - 70 * 40
    assert (batches[2]["label"][1] == 255).all() and (batches[2]["image"][1] == 0).all()
    assert shown(list(loader)) == [0, 1, 2, 3, 4, 0]  # and again from the start


def test_large_masks_are_padded_to_whole_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "BLOCK", 32)
    for index, size in enumerate([(70, 20), (8, 30)]):
        make_pair(tmp_path, "val", index, size)
    loader = loaders.EvalLoader(Config(data_dir=str(tmp_path), image_size=16, batch_size=1))
    assert loader.block == (32, 30)
    assert [batch["label"].shape for batch in loader] == [(1, 96, 30), (1, 32, 30)]


def test_eval_parts_of_the_processes_make_the_whole_batch(tmp_path: Path) -> None:
    for index, size in enumerate([(70, 40), (64, 64), (20, 130), (8, 8), (16, 16)]):
        make_pair(tmp_path, "val", index, size)
    config = Config(data_dir=str(tmp_path), image_size=16, batch_size=4, num_workers=2)
    whole = list(loaders.EvalLoader(config))
    parts = [list(loaders.EvalLoader(config, "val", index, 2)) for index in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 2
    for batch, *halves in zip(whole, *parts, strict=True):
        for key in ("image", "label", "size"):
            joined = np.concatenate([half[key] for half in halves])
            np.testing.assert_array_equal(joined, batch[key])
        assert halves[0]["name"] + halves[1]["name"] == batch["name"]


def test_drawn_faces_train_and_evaluate() -> None:
    config = Config(
        data_dir=SYNTHETIC, synthetic_train_count=6, synthetic_val_count=3, image_size=32
    )
    assert next(loaders.make_train_loader(config))["image"].shape == (4, 32, 32, 3)
    (batch,) = loaders.EvalLoader(config)
    assert batch["label"].shape == (4, 32, 32)
    assert batch["name"] == ["face_00000", "face_00001", "face_00002", ""]


def test_import_leaves_jax_out() -> None:
    code = "import sys, jaxparse.data.loaders; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
