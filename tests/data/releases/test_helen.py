from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data.folders import find_pairs
from jaxparse.data.releases.helen import map_paths, most_probable
from jaxparse.prepare import prepare
from tests.lapa_helen import HELEN, drawn, soft_maps, write_helen
from tests.refusal import refuses


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_helen(tmp_path / "SmithCVPR2013_dataset_resized")


def test_masks_hold_the_most_probable_class(release: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepare(release, output)
    index = 0
    for split, names in HELEN.items():
        pairs = find_pairs(output, split)
        assert [pair.image for pair in pairs] == [output / split / f"images/{n}.jpg" for n in names]
        for pair in pairs:
            source = release / "images" / pair.image.name
            assert pair.image.read_bytes() == source.read_bytes()
            with Image.open(pair.label) as mask:
                np.testing.assert_array_equal(mask, soft_maps(drawn(index)[1]).argmax(0))
            index += 1


def test_equal_and_empty_maps(tmp_path: Path) -> None:
    image = tmp_path / "1.jpg"
    Image.new("RGB", (4, 1)).save(image)
    maps = np.zeros((11, 1, 4), np.uint8)
    maps[2, 0] = [0, 100, 100, 0]
    maps[5, 0] = [0, 100, 101, 1]
    paths = map_paths(tmp_path, "1")
    paths[0].parent.mkdir(parents=True)
    for path, values in zip(paths, maps, strict=True):
        Image.fromarray(values).save(path)
    assert most_probable(image, paths).tolist() == [[0, 2, 5, 5]]
    Image.new("L", (4, 2)).save(paths[7])
    with refuses(paths[7], "4x2", "4x1"):
        most_probable(image, paths)
    Image.new("RGB", (4, 1)).save(paths[7])
    with refuses(paths[7], "RGB", "8-bit L"):
        most_probable(image, paths)


def test_what_is_missing_is_named(
    release: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    map_paths(release, "3_1")[4].unlink()
    (release / "images" / "4_1.jpg").unlink()
    with refuses("2 bad files"):
        prepare(release, tmp_path / "out")
    lines = capfd.readouterr().err
    assert "3_1_lbl04.png" in lines
    assert "4_1.jpg" in lines
    (release / "tuning.txt").write_text("1 , 3_1\n2 ; 5_1\n")
    with refuses("line 2", release / "tuning.txt", "2 ; 5_1"):
        prepare(release, tmp_path / "out")
    (release / "tuning.txt").unlink()
    with refuses(release / "tuning.txt", "testing.txt"):
        prepare(release, tmp_path / "out")
