"""The wheel: built from the sdist, installed outside the checkout, every command run from there.

Without network: the new environment takes the dependencies of the Python that runs the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import jax
import pytest

from jaxparse.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
SOURCES = ("jaxparse", "experiments", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
QUICKSTART = (
    *("train", "--exp", "quickstart", "--steps", "20", "--eval-every", "20", "--image-size", "64"),
    *("--synthetic-train-count", "16", "--synthetic-val-count", "4", "--head-channels", "16"),
)


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints, without this checkout on its path. It must succeed."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def copy_sources(folder: Path) -> None:
    """A copy to build in, since building leaves files among the sources."""
    folder.mkdir()
    for source in (ROOT / name for name in SOURCES):
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / source.name, ignore=ignore)
        else:
            shutil.copy(source, folder)


def build(folder: Path) -> Path:
    """The wheel, made from the sdist: so the sdist is complete as well."""
    copy_sources(folder / "sources")
    code = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    sdist = run(sys.executable, "-c", code, cwd=folder / "sources").splitlines()[-1]
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel installed."""
    pytest.importorskip("setuptools", "77", reason="building needs setuptools 77")
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(folder)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # The dependencies come after the wheel's own folder. Their .pth files are not read, so an
    # editable jaxparse among them cannot be imported.
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    paths = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return folder / "venv"


def test_pyproject_lists_every_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (ROOT / "jaxparse").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert sorted(listed) == sorted(names | {"jaxparse.experiments"})


@pytest.mark.full
def test_the_wheel_holds_experiments_weights_licence_and_type_marker(
    environment: Path, tmp_path: Path
) -> None:
    code = """
import json
from importlib import metadata, resources
import jaxparse
files = resources.files("jaxparse.experiments").iterdir()
metadata = metadata.metadata("jaxparse")
print(json.dumps([
    jaxparse.__file__,
    sorted(file.name for file in files if file.name.endswith(".py")),
    resources.files("jaxparse").joinpath("py.typed").is_file(),
    resources.files("jaxparse.weights").joinpath("lite0.safetensors").is_file(),
    metadata["License-Expression"],
    metadata.get_all("License-File"),
]))
"""
    printed = run(environment / "bin/python", "-c", code, cwd=tmp_path)
    file, experiments, is_typed, has_weights, licence, licence_files = json.loads(printed)
    assert Path(file).is_relative_to(environment)
    assert experiments == sorted(path.name for path in (ROOT / "experiments").glob("*.py"))
    assert is_typed and has_weights
    assert (licence, licence_files) == ("Apache-2.0", ["LICENSE"])


@pytest.mark.full
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, environment: Path, tmp_path: Path) -> None:
    printed = run(environment / "bin/jaxparse", name, "--help", cwd=tmp_path)
    assert printed.startswith(f"usage: jaxparse {name} ")


@pytest.mark.full
def test_an_experiment_is_found_from_any_folder(environment: Path, tmp_path: Path) -> None:
    code = "from jaxparse.config import load_experiment; print(load_experiment('swin_b').backbone)"
    assert run(environment / "bin/python", "-c", code, cwd=tmp_path) == "swin_b\n"


@pytest.mark.full
def test_twenty_steps_of_the_quickstart(environment: Path, tmp_path: Path) -> None:
    run(environment / "bin/jaxparse", *QUICKSTART, cwd=tmp_path)
    folder = tmp_path / "runs/quickstart"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 20
    assert 0 <= rows[-1]["val/mIoU"] <= 1
    assert (folder / "best.safetensors").is_file()
    assert (folder / "examples.png").is_file()
