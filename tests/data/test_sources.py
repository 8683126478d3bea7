from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from jaxparse.config import SYNTHETIC, Config, Filter
from jaxparse.data import sources
from jaxparse.data.folders import find_pairs
from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask
from jaxparse.data.sources import FolderSource, SkippingSource, make_source, resize_image
from tests.pairs import make_pair, make_split
from tests.refusal import refuses

FILTERS = get_args(Filter)


def test_each_filter_resizes_in_its_own_way() -> None:
    """One white column of 8, made half as wide: OpenCV takes the mean of two columns, Pillow's
    filters reach further. Enlarged, no value lies beyond the border."""
    columns = np.zeros((8, 8, 3), np.uint8)
    columns[:, 3] = 255
    shown = {name: resize_image(Image.fromarray(columns), 4, name)[0, :, 0] for name in FILTERS}
    assert shown["opencv"].tolist() in ([0, 127, 0, 0], [0, 128, 0, 0])
    assert shown["bilinear"].tolist() == [0, 96, 32, 0]  # 3/8 and 1/8: a triangle of width 4
    assert shown["bicubic"][1] > shown["bilinear"][1] and shown["bicubic"][0] == 0
    ramp = np.repeat(np.array([[0, 80, 160, 240]], np.uint8), 4, axis=0)
    enlarged = resize_image(Image.fromarray(ramp).convert("RGB"), 8, "opencv")[0, :, 0]
    np.testing.assert_allclose(enlarged, [0, 20, 60, 100, 140, 180, 220, 240], atol=1)


def test_images_shrink_with_antialias_and_masks_by_nearest(tmp_path: Path) -> None:
    image, mask = make_pair(tmp_path, "train", 0, (64, 64))
    checkers = 255 * (np.indices((64, 64)).sum(axis=0) % 2)
    write_image(image, np.repeat(checkers[..., None], 3, axis=-1).astype(np.uint8))
    label = np.kron([[1, 2], [3, 4]], np.ones((32, 32))).astype(np.uint8)
    write_mask(mask, label)
    pairs = find_pairs(tmp_path, "train")
    example = FolderSource(pairs, 16, resize_label=True)[0]
    assert example["image"].shape == (16, 16, 3) and example["name"] == "000"
    assert np.abs(example["image"][2:-2, 2:-2].astype(int) - 127).max() <= 2
    np.testing.assert_array_equal(example["label"], label[::4, ::4])
    own_size = FolderSource(pairs, 16, resize_label=False)[0]["label"]
    np.testing.assert_array_equal(own_size, label)


def test_drawn_faces_are_drawn_once_and_do_not_depend_on_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def draw(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        drawn.append((seed, index))
        return np.full((size, size, 3), index, np.uint8), np.full((size, size), seed, np.uint8)

    monkeypatch.setattr(sources, "draw_face", draw)
    config = Config(data_dir=SYNTHETIC, synthetic_train_count=5, synthetic_val_count=3, seed=7)
    train, val = make_source(config, "train"), make_source(config, "val")
    assert (len(train), len(val)) == (5, 3)
    for _ in range(2):
        assert [int(train[i]["image"][0, 0, 0]) for i in range(5)] == [0, 1, 2, 3, 4]
        assert val[2]["label"].shape == (512, 512) == val.label_size(2)
    assert drawn == [*((0, index) for index in range(5)), (1, 2)]


def test_with_nothing_readable_it_stops(tmp_path: Path) -> None:
    config = make_split(tmp_path, "train", 10)
    warnings = []
    source = SkippingSource(make_source(config, "train"), warnings.append)
    for path in (tmp_path / "train/train_image").iterdir():
        path.unlink()
    for _ in range(2):
        with refuses("FolderSource(10 pairs", "disk"):
            source[3]
    assert len(warnings) == 10
