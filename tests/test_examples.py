"""The Python examples of the documentation run as they stand."""

import doctest
from pathlib import Path

import pytest

from jaxparse.data.masks import read_label
from tests.conftest import Nano
from tests.parsed import draw

REPOSITORY = Path(__file__).parent.parent
PAGES = [
    REPOSITORY / "README.md",
    *REPOSITORY.glob("docs/*.md"),
    *REPOSITORY.glob("jaxparse/**/*.py"),
]
WITH_EXAMPLES = sorted(path for path in PAGES if ">>> " in path.read_text(encoding="utf-8"))


def test_the_pages_on_python_have_examples() -> None:
    names = {path.name for path in WITH_EXAMPLES}
    assert names >= {"README.md", "predict.md", "parser.py"}


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.name)
def test_examples_run(
    path: Path, nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page may read weights.safetensors and photo.jpg, and saves mask.png."""
    (tmp_path / "weights.safetensors").write_bytes(Path(nano.weights).read_bytes())
    draw(tmp_path / "photo.jpg", 0, (48, 64))
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(path), module_relative=False, optionflags=flags, encoding="utf-8")
    assert result.attempted > 0 and result.failed == 0
    assert read_label(tmp_path / "mask.png").shape == (48, 64)
