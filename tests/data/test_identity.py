import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse.config import Config, save_config
from jaxparse.data.identity import IDENTITY, require_same_data, save_identity
from jaxparse.data.masks import write_mask
from jaxparse.data.mirrored import write_names
from tests import mini
from tests.pairs import make_split
from tests.refusal import refuses
from tests.runs import run


@pytest.fixture
def begun(tmp_path: Path) -> Config:
    """The config of a run that has just begun."""
    for split in ("train", "val"):
        make_split(tmp_path / "data", split, 3)
    config = replace(mini.config, data_dir=str(tmp_path / "data"), workdir=str(tmp_path / "run"))
    save_config(config, config.workdir)
    save_identity(config)
    return config


def test_data_may_move_and_be_spelled_otherwise(
    begun: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "data/", "./data"):
        require_same_data(replace(begun, data_dir=name))
    shutil.move(tmp_path / "data", tmp_path / "moved")
    require_same_data(replace(begun, data_dir="moved"))
    (tmp_path / "run" / IDENTITY).unlink()  # as of older versions: the folder must be the same
    require_same_data(replace(begun, data_dir="./data"))
    with refuses("moved", tmp_path / "data", "--init-weights"):
        require_same_data(replace(begun, data_dir="moved"))


def test_other_pictures_are_another_run(begun: Config, tmp_path: Path) -> None:
    mask = tmp_path / "data" / "train" / "train_mask" / "001.png"
    write_mask(mask, np.eye(16, dtype=np.uint8))  # mended
    require_same_data(begun)
    write_names(tmp_path / "list.txt", {"001"})
    shutil.rmtree(tmp_path / "data" / "val")  # else the name is in both splits
    make_split(tmp_path / "data", "val", 1)
    save_identity(begun)
    with refuses(begun.data_dir, "mirrored"):
        require_same_data(replace(begun, mirrored_masks=str(tmp_path / "list.txt")))
    for path in (tmp_path / "data" / "train").glob("*/002.png"):
        path.rename(path.with_stem("003"))
    with refuses(begun.data_dir, "names", "--workdir", f"--init-weights {begun.workdir}"):
        run(begun)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000])
def test_damaged_identity_is_named(begun: Config, text: str) -> None:
    (Path(begun.workdir) / IDENTITY).write_text(text)
    with refuses(IDENTITY, "not JSON", "delete"):
        require_same_data(begun)


def test_folder_that_is_not_there_is_what_is_named(begun: Config) -> None:
    with refuses("there is no folder gone") as caught:
        require_same_data(replace(begun, data_dir="gone"))
    assert IDENTITY not in str(caught.value)
    with refuses("synthetic", begun.data_dir, "--init-weights"):
        require_same_data(replace(begun, data_dir="synthetic"))
