"""The hub is a folder: huggingface_hub's cache without a network (tests/foreign.py)."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxparse import Parser
from jaxparse.config import load_experiment
from jaxparse.weights import conversion
from jaxparse.weights.conversion import convert
from jaxparse.weights.files import read_weights
from jaxparse.weights.find import fetch, load_network
from jaxparse.weights.hub import HubName, download, is_hub_name, pick
from tests import foreign
from tests.conftest import Nano
from tests.foreign import offline_hub, require_equal
from tests.refusal import refuses

NAME = "someone/a-network"


def test_names_of_the_hub_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    names = ("user/repo", "user/repo@v1.0", "jonathandinu/face-parsing", "Some-One/re.po_1")
    names += ("user/repo/file.pt", "user/repo/folder/file.safetensors@v1", "user/repo@refs/pr/1")
    names += ("https://huggingface.co/user/repo",)
    assert all(map(is_hub_name, names))
    paths = ("runs/swin_t", "a.pth", "user/repo.safetensors", "/user/repo", "./user/repo")
    paths += ("runs/swin_t/best.pth", "swin_t", "user/", "../repo", "user/repo.pth")
    assert not any(map(is_hub_name, paths))
    for name in ("swin_t", "user/", "/user/repo"):
        with refuses("user/repo"):
            Parser.from_pretrained(name)


SAID = "ignore:.*names none:UserWarning"  # of class names; tests/weights/test_find.py


@pytest.mark.parametrize(
    "name, parts",
    [
        ("user/repo", ("user/repo", None, None)),
        ("user/repo@v1.0", ("user/repo", None, "v1.0")),
        ("user/repo@refs/pr/1", ("user/repo", None, "refs/pr/1")),
        ("user/repo/folder/file.pt@v1", ("user/repo", "folder/file.pt", "v1")),
        ("user/repo/a b.pt@refs/pr/1", ("user/repo", "a b.pt", "refs/pr/1")),
        ("https://huggingface.co/user/repo", ("user/repo", None, None)),
        ("https://huggingface.co/user/repo/", ("user/repo", None, None)),
        ("https://hf.co/user/repo/tree/v1", ("user/repo", None, "v1")),
        ("https://huggingface.co/user/repo/tree/refs%2Fpr%2F1", ("user/repo", None, "refs/pr/1")),
        ("https://huggingface.co/user/repo/blob/main/a/b.pt#L1", ("user/repo", "a/b.pt", "main")),
        (
            "https://huggingface.co/user/repo/resolve/refs/pr/1/a%20b.pt?download=true",
            ("user/repo", "a b.pt", "refs/pr/1"),
        ),
    ],
)
def test_names_and_addresses(name: str, parts: tuple[str | None, ...]) -> None:
    assert HubName.of(name) == parts
    assert HubName.of(str(HubName.of(name))) == parts


@pytest.mark.parametrize(
    "name, fix",
    [
        ("user/repo@v1/folder/file.pt", "user/repo/folder/file.pt@v1"),
        ("https://huggingface.co/user", "user/repo"),
        ("https://huggingface.co/datasets/user/repo", "user/repo"),
        ("https://github.com/user/repo/releases/download/v1/file.pt", "download"),
        ("swin_t", "user/repo"),
        ("", "user/repo"),
    ],
)
def test_what_is_no_name_says_what_is(name: str, fix: str) -> None:
    with refuses(name, fix):
        HubName.of(name)


def test_a_mirror_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:8123")
    name = HubName.of("http://127.0.0.1:8123/user/repo/blob/v1/a.pt")
    assert name == ("user/repo", "a.pt", "v1")
    assert name.address == "http://127.0.0.1:8123/user/repo/resolve/v1/a.pt"


@pytest.mark.filterwarnings(SAID)
def test_a_network_of_another_package_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = {"image_mean": [0.5, 0.5, 0.5], "size": {"height": 96, "width": 96}, "resample": 3}
    offline_hub(tmp_path, monkeypatch, {NAME: foreign.mmseg()}, stated)
    path = fetch(NAME)
    arrays, metadata = read_weights(path)
    expected = convert("f", foreign.mmseg(), load_experiment("swin_nano"))
    require_equal(arrays, expected.arrays)
    assert NAME in metadata["source"]
    config, *_ = load_network(NAME)
    assert (config.backbone, config.head, config.head_channels) == ("swin_nano", "upernet", 64)
    assert (config.image_mean, config.resize_filter) == ((127.5,) * 3, "bicubic")
    assert config.image_size == 96
    monkeypatch.setattr(conversion, "convert", None)  # it is not called again
    assert fetch(f"{NAME}@main") == path


def test_our_own_file_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano: Nano
) -> None:
    folder = offline_hub(tmp_path, monkeypatch, {NAME: Path(nano.weights)})
    assert fetch(NAME).parent == folder[NAME]
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    found = Parser.from_pretrained(NAME)(picture).mask
    np.testing.assert_array_equal(found, Parser.load(nano.weights)(picture).mask)


@pytest.mark.parametrize(
    "files, taken",
    [
        (["a.safetensors"], "a.safetensors"),
        (["a.pt", "b.safetensors", "sub/model.safetensors"], "b.safetensors"),
        (["model.safetensors", "optimizer.pt", "other.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin"),
        (
            ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"],
            "model.safetensors.index.json",
        ),
        (
            ["a.safetensors", "b.safetensors", "c.safetensors.index.json"],
            "c.safetensors.index.json",
        ),
    ],
)
def test_the_file_of_a_repository(files: list[str], taken: str) -> None:
    assert pick("user/repo", files) == taken


@pytest.mark.parametrize(
    "files, what",
    [
        (["a.pt", "b.pt"], "several files"),
        (["a/model.pt", "b/model.pt"], "in folders"),
        (["a/model.pt"], "in folders"),
    ],
)
def test_several_files_or_those_in_folders_are_listed(files: list[str], what: str) -> None:
    with refuses("user/repo", what, *(f"user/repo/{file}@v1" for file in files)):
        pick("user/repo", files, behind="@v1")
    with refuses("user/repo", "no file c.pt", f"user/repo/{files[0]}"):
        pick("user/repo", files, "c.pt")
    assert pick("user/repo", files, files[-1]) == files[-1]


@pytest.mark.filterwarnings(SAID)
def test_a_file_of_several_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = offline_hub(tmp_path, monkeypatch, {NAME: foreign.mmseg()})[NAME]
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(folder / "sub" / "a.safetensors")
    with refuses(NAME, f"{NAME}/sub/a.safetensors"):
        fetch(NAME)
    one = fetch(f"{NAME}/sub/a.safetensors")
    require_equal(read_weights(one)[0], convert("f", foreign.mmseg()).arrays)


def test_only_what_is_wanted_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["a/config.json", "a/model.pt", "b/model.pt", "README.md"]
    asked = []

    def about() -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: about())
    with refuses(f"{NAME}/a/model.pt@v1", f"{NAME}/b/model.pt@v1"):
        download(f"{NAME}@v1")
    assert not asked
    assert download(f"{NAME}/a/model.pt@v1") == (tmp_path, "a/model.pt")
    beside = ["a/config.json", "a/preprocessor_config.json"]
    assert asked == [(NAME, "v1", ["a/model.pt", *beside])]
    files[:] = ["model.safetensors.index.json"]
    download(NAME)
    assert asked[1][2][0] == files[0] and asked[1][2][-1] == "*.safetensors"


def test_a_failed_download_says_what_to_download_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline_hub(tmp_path, monkeypatch, {})
    url = "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors"
    command = "convert_weights --exp e --weights model.safetensors"
    with refuses("timm/resnet50.a1_in1k", "OfflineModeIsEnabled", url, command) as error:
        download("timm/resnet50.a1_in1k", ("--exp", "e"))
    assert "\n" not in str(error.value)


def hub_error(kind: str, status: int) -> Exception:
    response = SimpleNamespace(status_code=status)
    error = type(kind, (RuntimeError,), {"response": response})
    return error(f"{status} Client Error. (Request ID: 1)\n\nNot Found")


@pytest.mark.parametrize(
    "error, words",
    [
        (hub_error("RepositoryNotFoundError", 401), ["hf auth login", "no file or folder"]),
        (hub_error("GatedRepoError", 403), ["terms", "hf auth login"]),
        (hub_error("HfHubHTTPError", 401), ["not valid", "hf auth login", "HF_TOKEN"]),
        (hub_error("RevisionNotFoundError", 404), ["@v1"]),
        (hub_error("HfHubHTTPError", 503), ["network", "resolve/v1/model.safetensors"]),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]
) -> None:
    offline_hub(tmp_path, monkeypatch, {})

    def fail(*_: object, **__: object) -> list[str]:
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with refuses(f"{NAME}@v1", type(error).__name__, *words) as refusal:
        download(f"{NAME}@v1")
    assert "\n" not in str(refusal.value)


def test_a_repository_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = offline_hub(tmp_path, monkeypatch, {NAME: foreign.mmseg()})[NAME]
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with refuses(NAME, "no file of weights", "*.safetensors"):
        fetch(NAME)
