"""The console command: its list of commands, and how it runs one."""

import ast
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import jaxparse
from jaxparse import cli
from jaxparse.__main__ import COMMANDS, main

PACKAGE = Path(jaxparse.__file__).parent
ASKS_FOR_HELP = """
import sys
from jaxparse.__main__ import main
sys.argv = ["jaxparse", "--help"]
main()
print(*sys.modules, file=sys.stderr)
"""


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """The exit code of `jaxparse ARGS`."""
    monkeypatch.setattr(sys, "argv", ["jaxparse", *args])
    try:
        return main()
    except SystemExit as error:
        return error.code


def test_every_command_is_listed() -> None:
    files = [path for path in PACKAGE.glob("*.py") if path.stem != "__main__"]
    commands = {path.stem for path in files if 'if __name__ == "__main__":' in path.read_text()}
    commands |= {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert COMMANDS.keys() == commands


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_hands_over_before_it_imports_anything(name: str) -> None:
    path = PACKAGE / f"{name}.py"
    path = path if path.is_file() else PACKAGE / name / "__main__.py"
    first = ast.unparse(ast.parse(path.read_text()).body[1])  # after the docstring
    assert first.startswith("if __name__ == '__main__':") and f"start('{name}')" in first


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_has_a_line_for_each_command(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "line",
    [
        "predict {} --output o",
        "predict --output o {}",
        "predict --output o --input {}",
        "data {}",
        "data --check {}",
        "data --data-dir {}",
        "evaluate {}",
        "evaluate --batch-size 2 --weights {}",
        "evaluate --workdir={}",
        "report {}",
        "report --weights {}",
        "export {} --to stablehlo --output o.zip",
        "export --to stablehlo --output o.zip --weights {}",
        "classes {}",
        "convert_weights {}",
        "convert_weights --checkpoint {}",
        "push {} user/name",
        "web {} --port 0",
        "train {}",
        "train --exp {}",
        "preview {} --count 1",
        "plan {}",
        "benchmark {}",
    ],
)
def test_what_a_command_is_about_may_come_first_or_after_its_flag(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *line.format("no-such").split()) == 1
    printed = "".join(capsys.readouterr())
    # The page finds out that gradio is missing before it reads the network.
    refused = "there (is|are) no .*no-such|no-such is not|gradio is missing"
    assert re.search(refused, printed), printed


def test_messages_name_no_page_of_the_documentation() -> None:
    """An installed package has none of them; comments and docstrings are for who has."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in alone]
        assert not [n.value for n in texts if isinstance(n.value, str) and "docs/" in n.value], path


def test_help_imports_no_library() -> None:
    command = [sys.executable, "-c", ASKS_FOR_HELP]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(result.stderr.split())
    assert "jaxparse.__main__" in imported
    assert not imported & {"jax", "numpy", "rich", "tyro"}


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"jaxparse {metadata.version('jaxparse')}\n"


@pytest.mark.parametrize("name", ["evalute", "cli", "--exp"])
def test_an_unknown_command_is_refused_with_those_that_exist(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, name) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert all(word in err for word in (name, *COMMANDS))
    assert ("did you mean evaluate?" in err) == (name == "evalute")


@pytest.mark.parametrize("name", ["synthetic", "data"])  # a file, a folder
def test_a_command_gets_the_flags_and_its_usage_names_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, name, "--help") == 0
    assert f"usage: jaxparse {name} " in capsys.readouterr().out


def test_commands_silence_the_notices_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    names, seen = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"), []
    monkeypatch.setattr(cli, "command", lambda *_: seen.append([os.environ[n] for n in names]))
    for given in ({}, {names[0]: "0"}):
        with monkeypatch.context() as patch:
            for name in names:
                patch.delenv(name, raising=False)
            for name, value in given.items():
                patch.setenv(name, value)
            assert call(patch, "synthetic") == 0
    assert seen == [["3", "0"], ["0", "0"]]  # the user's own are kept


def test_an_error_of_a_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "plot", str(tmp_path / "missing"), "--output", "curves.png") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "missing" in err
