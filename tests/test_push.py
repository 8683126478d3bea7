import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.config import Config, save_config
from jaxparse.push import push
from jaxparse.weights.files import BEST_WEIGHTS, read_weights, save_weights
from jaxparse.weights.find import find_weights, load_network
from tests import foreign
from tests.conftest import Nano
from tests.logged import ALL, make_run
from tests.refusal import refuses

NAME = "someone/a-network"


@pytest.fixture
def run(tmp_path: Path, nano: Nano) -> Config:
    """The config of a run's folder: settings, three evaluations, the weights of the best."""
    config = replace(
        nano.config,
        steps=123,
        init_weights="/home/me/w.safetensors",
        workdir=str(tmp_path / "a run[/v2]"),
    )
    folder = make_run(Path(config.workdir), ALL)
    save_config(config, folder)
    arrays, _ = read_weights(nano.weights)
    save_weights(folder / BEST_WEIGHTS, arrays, config, f"step 80 of {folder}: val mIoU 75.00")
    return config


def test_a_run_is_uploaded_and_read_back(
    run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is a folder here: what is uploaded lies in the cache from which it is read."""
    snapshot = foreign.offline_hub(tmp_path, monkeypatch, {NAME: {}})[NAME]
    made = []

    def create(self: object, repository: str, **how: object) -> None:
        made.append((repository, how["private"]))

    def upload(self: object, repo_id: str, folder_path: Path) -> None:
        assert repo_id == NAME
        shutil.copytree(folder_path, snapshot, dirs_exist_ok=True)

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    push(run.workdir, NAME, private=True)
    assert made == [(NAME, True)]
    assert find_weights(NAME).read_bytes() == find_weights(run.workdir).read_bytes()
    read_back, *_ = load_network(NAME)
    assert (read_back.backbone, read_back.image_size) == (run.backbone, run.image_size)
    card = (snapshot / "README.md").read_text()
    assert "| 75.00 | 90.00 | 75.00 |" in card and "after step 80" in card
    assert "| nose | 25.00 |" in card and "| hat | absent |" in card
    assert all(f"{index} {name}" in card for index, name in enumerate(CELEBAMASK.names))
    assert f'Parser.from_pretrained("{NAME}")' in card and "person's own" in card
    assert f"| steps | {run.steps} |" in card
    assert "| init_weights | w.safetensors |" in card
    assert run.workdir not in card and "/home" not in card  # nothing of this machine


def test_files_can_be_looked_at_first(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("someone").mkdir()  # which does not make the name a path
    folder = tmp_path / "card"
    push(nano.weights, NAME, card=folder)
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert read_weights(folder / "model.safetensors")[1] == read_weights(nano.weights)[1]
    assert "## Scores" not in (folder / "README.md").read_text()


def test_the_card_of_another_table_says_nothing_of_celebamask(nano: Nano, tmp_path: Path) -> None:
    config = replace(nano.config, classes="lapa")
    arrays, _ = read_weights(nano.weights)
    arrays = {k: x[..., :11] if "conv_seg" in k else x for k, x in arrays.items()}
    save_weights(tmp_path / "w.safetensors", arrays, config, origin="a test")
    push(str(tmp_path / "w.safetensors"), NAME, card=tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    assert "0 background, 1 skin, 2 left_brow" in card
    for word in ("celebamask", "person's own", "license", "hats and glasses"):
        assert word not in card


def test_names_and_rights(nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refuses("a-network", "user/repo"):
        push(nano.weights, "a-network")
    for name in (f"{NAME}@main", f"{NAME}/file.pt"):
        with refuses(name, "USER/NAME"):
            push(nano.weights, name)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("401 Client Error\n\nInvalid username or password.")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refused)
    with refuses(NAME, "401", "hf auth login") as error:
        push(nano.weights, NAME)
    assert "\n" not in str(error.value)
