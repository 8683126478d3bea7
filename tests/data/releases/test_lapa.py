import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse.data.folders import find_pairs
from jaxparse.prepare import prepare
from tests.lapa_helen import LAPA, drawn, write_lapa
from tests.refusal import refuses


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_lapa(tmp_path / "LaPa")


def test_pictures_and_masks_are_kept_as_they_are(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    prepare(release, output)
    index = 0
    for split, names in LAPA.items():
        pairs = find_pairs(output, split)
        assert [pair.label for pair in pairs] == [output / split / f"masks/{n}.png" for n in names]
        for pair in pairs:
            source = release / split / "images" / pair.image.name
            assert pair.image.read_bytes() == source.read_bytes()
            with Image.open(pair.label) as mask:
                np.testing.assert_array_equal(mask, drawn(index)[1])
            index += 1
    # As drawn: the left eye is the person's own. One of the six wears dark glasses.
    assert "in 5 of 5 masks" in capsys.readouterr().out
    made = {path: path.stat().st_mtime_ns for path in output.rglob("*.*g")}
    (output / "train" / "masks" / "7_0.png").unlink()
    prepare(release, output)
    again = {path for path, time in made.items() if path.stat().st_mtime_ns != time}
    assert again == {output / "train" / "masks" / "7_0.png"}


def save(value: int, size: tuple[int, int]) -> Callable[[Path], None]:
    return lambda path: Image.new("L", size, value).save(path)


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("images/8_1.jpg", Path.unlink, ["there is no"]),
        ("labels/8_1.png", Path.unlink, ["there is no"]),
        ("images/8_1.jpg", lambda path: os.truncate(path, 900), ["truncated", "unpack"]),
        ("labels/8_1.png", save(11, (64, 62)), ["holds 11", "0..10"]),
        ("labels/8_1.png", save(1, (64, 64)), ["64x64", "64x62"]),
    ],
)
def test_a_bad_file_is_named(
    release: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], None],
    words: list[str],
) -> None:
    damage(release / "val" / file)
    with refuses("1 bad file"):
        prepare(release, tmp_path / "out")
    lines = capfd.readouterr().err.splitlines()
    expected = [str(release / "val" / file), *words]
    assert [line for line in lines if all(word in line for word in expected)]


def test_what_is_missing_is_named(release: Path, tmp_path: Path) -> None:
    with refuses("--paint", release, "leave"):
        prepare(release, tmp_path / "out", paint="accessories-last")
    (release / "test" / "labels").rename(release / "test" / "masks")
    with refuses(f"no {release / 'test' / 'labels'}"):
        prepare(release, tmp_path / "out")
    with refuses(tmp_path, "LaPa/", "exemplars.txt", "CelebA-HQ-img", "train/labels"):
        prepare(tmp_path, tmp_path / "out")
    with refuses(tmp_path / "none", "no such folder"):
        prepare(tmp_path / "none", tmp_path / "out")
