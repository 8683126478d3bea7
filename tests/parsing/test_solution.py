"""The challenge's solution/: what it holds, and that it makes the submitted masks again."""

import os
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import submission
from jaxparse.config import Config
from jaxparse.models import split_model
from jaxparse.parsing.parser import Parser, TestTime
from jaxparse.parsing.solution import require_few_parameters, run_solution, write_solution
from jaxparse.weights.files import flatten, save_weights
from tests.conftest import Nano, noise
from tests.parsed import draw, share_program
from tests.refusal import refuses
from tests.test_imports import PACKAGE, imports
from tests.zips import STEMS, write_masks

FLIP = TestTime(flip=True)


def test_run_py_writes_what_the_parser_says(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_program(monkeypatch, nano)
    write_solution(tmp_path / "solution", nano.weights, FLIP)
    picture, mask = draw(tmp_path / "a.jpg", 0, (70, 50)), tmp_path / "a.png"
    run = tmp_path / "solution" / "run.py"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # run.py sets it; here it is taken back
    monkeypatch.setattr(sys, "argv", ["run.py", "--input", str(picture), "--output", str(mask)])
    runpy.run_path(str(run), run_name="__main__")
    expected = Parser.load(nano.weights, FLIP, batch_size=1)(picture).mask
    np.testing.assert_array_equal(Image.open(mask), expected)
    assert (run.parent / "ckpt.pth").read_bytes() == Path(nano.weights).read_bytes()
    assert (run.parent / "jaxparse" / "parsing" / "parser.py").is_file()


def test_requirements_are_the_versions_here_of_all_that_the_parser_imports(
    nano: Nano, tmp_path: Path
) -> None:
    write_solution(tmp_path / "solution", nano.weights, FLIP)
    lines = (tmp_path / "solution" / "requirements.txt").read_text().splitlines()
    names = [line.split("==")[0] for line in lines]
    assert lines == [f"{name}=={metadata.version(name)}" for name in names]
    # The second is imported late, where no compiled program is at hand.
    roots, seen, todo = set(), set(), ["jaxparse.parsing.parser", "jaxparse.models.builders"]
    while todo:
        module = todo.pop()
        path = (PACKAGE.parent / module.replace(".", "/")).with_suffix(".py")
        path = path if path.is_file() else path.with_suffix("") / "__init__.py"
        if module not in seen and path.is_file():
            seen.add(module)
            todo += [name for name in imports(path, top_only=True) if name.startswith("jaxparse.")]
            roots |= {name.split(".")[0] for name in imports(path, top_only=True)}
    assert {"jaxparse.models.swin", "jaxparse.weights.files"} <= seen
    roots = {"pillow" if root == "PIL" else root for root in roots}
    assert roots - sys.stdlib_module_names - {"jaxparse"} == set(names)


def test_too_many_parameters_are_refused(nano: Nano, tmp_path: Path) -> None:
    parts = {
        part: sum(a.size for a in flatten(tree).values()) for part, tree in nano.params.items()
    }
    total = sum(parts.values())
    require_few_parameters(nano.weights, total + 1)
    sizes = f"{total:,} trainable parameters", f"auxiliary_head {parts['auxiliary_head']:,}"
    with refuses(nano.weights, *sizes, f"fewer than {total:,}", "--parameter-limit"):
        images, output = tmp_path, tmp_path / "a.zip"
        submission.solution(
            weights=nano.weights, images=images, output=output, parameter_limit=total
        )


@pytest.mark.parametrize("name, words", [("a.tar", ".zip"), ("", "is a folder")])
def test_output_that_cannot_be_is_known_before_the_masks(
    nano: Nano, tmp_path: Path, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "test" / "a.jpg", 0, (512, 512))
    (tmp_path / "out.zip").mkdir()
    monkeypatch.setattr(submission, "run_solution", None)
    output = tmp_path / (name or "out.zip")
    with refuses("--output", output, words):
        submission.solution(weights=nano.weights, images=tmp_path / "test", output=output)


def test_zip_holds_masks_and_solution(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, stem in enumerate(STEMS):
        draw(tmp_path / "test" / f"{stem}.jpg", index, (512, 512))

    def run(folder: Path, masks: Mapping[Path, Path]) -> Iterator[Path]:
        assert (folder / "run.py").is_file()
        assert {mask.stem: image.stem for mask, image in masks.items()} == {s: s for s in STEMS}
        write_masks(next(iter(masks)).parent)
        yield from masks

    monkeypatch.setattr(submission, "run_solution", run)
    output = tmp_path / "new.zip"
    submission.solution(weights=nano.weights, images=tmp_path / "test", output=output)
    assert submission.check(output, images=tmp_path / "test", format="codabench") == 0
    with zipfile.ZipFile(output) as archive:
        names = archive.namelist()
    assert names[:3] == [f"masks/{stem}.png" for stem in STEMS]
    code = {"run.py", "ckpt.pth", "requirements.txt", "jaxparse/__init__.py"}
    assert code <= {name.removeprefix("solution/") for name in names[3:]}
    assert not any("__pycache__" in name for name in names)


def test_run_py_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("import sys; print(sys.argv[4]); sys.exit(3)")
    written = run_solution(tmp_path, {tmp_path / "a.png": tmp_path / "a.jpg"})
    assert next(written) == tmp_path / "a.png"
    with refuses("run.py", "3"):
        next(written)


@pytest.mark.full
def test_unpacked_alone_it_makes_the_masks_byte_for_byte(tmp_path: Path) -> None:
    config = replace(
        Config(backbone="swin_nano", image_size=64), head_channels=16, auxiliary_channels=16
    )
    _, params, batch_stats = split_model(config)
    rng = np.random.default_rng(0)
    flat = flatten(params) | flatten(batch_stats)
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, {k: noise(rng, k, v.shape) for k, v in flat.items()}, config, "a test")
    for index in range(3):
        draw(tmp_path / "test" / f"{index}.jpg", index, (512, 512))
    output = tmp_path / "new.zip"
    submission.solution(
        weights=str(weights),
        images=tmp_path / "test",
        output=output,
        test_time=FLIP,
        parameter_limit=3_000_000,
    )
    with zipfile.ZipFile(output) as archive:
        archive.extractall(tmp_path / "unpacked")
    masks = sorted((tmp_path / "unpacked" / "masks").iterdir())
    assert len({mask.read_bytes() for mask in masks}) == len(masks) == 3
    again = tmp_path / "again.png"
    flags = ("--input", tmp_path / "test" / "1.jpg", "--output", again, "--weights", "ckpt.pth")
    command = [sys.executable, "run.py", *map(str, flags)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=tmp_path / "unpacked" / "solution", env=env, check=True)
    assert again.read_bytes() == masks[1].read_bytes()
