import errno
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from jaxparse import cli, interrupts
from jaxparse.cli import command, line_for_shell, prog, run, show, track
from jaxparse.files import FaultsError, reading


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ValueError("label x.png holds 37;\n  map it"), 1, "error: label x.png holds 37; map it\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.png"),
            1,
            "error: [Errno 28] No space left on device: 'x.png'\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_end_in_one_line_and_an_exit_code(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == code
    assert capsys.readouterr() == ("", line)


def test_faults_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise FaultsError("a.zip is not written:", ["0.png is empty", "1.png is empty"])

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 1
    wanted = ["error: a.zip is not written:", "0.png is empty", "1.png is empty"]
    assert capsys.readouterr().err.splitlines() == wanted


def test_names_that_are_not_utf_8_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def main() -> None:
        print("caf\udce9.txt é")
        show(Console(), "caf\udce9.txt é")
        raise ValueError("caf\udce9.txt é")

    with pytest.raises(SystemExit):
        run(main)
    expected = ["caf\\udce9.txt é\n" * 2, "error: caf\\udce9.txt é\n"]
    for stream, text in zip(streams, expected, strict=True):
        stream.flush()
        assert stream.buffer.getvalue().decode() == text


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_returned_code_is_the_exit_code(returned: int | None, code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda: returned)
    assert caught.value.code == code


def test_a_bug_keeps_its_trace() -> None:
    with pytest.raises(KeyError):
        run(lambda: {}["missing"])


def test_flags_may_have_a_second_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def show(weights: str, steps: int = 1) -> int:
        return len(weights) + steps

    for args in (["--weights", "abc"], ["--workdir", "abc"], ["--workdir=abc", "--steps=1"]):
        monkeypatch.setattr(sys, "argv", ["predict", *args])
        assert command(show, "predict", {"--workdir": "--weights"}) == 4


def test_usage_names_the_command_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/lib/jaxparse/train.py"])
    assert prog("train") == "python -m jaxparse.train"
    monkeypatch.setattr(sys, "argv", ["jaxparse train"])
    assert prog("train") == "jaxparse train"


@pytest.mark.parametrize("text", ["runs[/x]/best", "runs[v2]", "a:smile:b", "x" * 300])
def test_paths_are_shown_as_they_are(text: str) -> None:
    screen = io.StringIO()
    show(Console(file=screen, width=20), text)
    assert screen.getvalue() == f"{text}\n"


def test_printed_commands_can_be_pasted() -> None:
    line = line_for_shell("predict", "--weights", Path("my runs/[v2]"))
    assert line == "python -m jaxparse.predict --weights 'my runs/[v2]'"


@pytest.mark.parametrize("words", [["-m", "jaxparse.data"], ["-m", "jaxparse", "data"]])
def test_interrupted_while_it_starts(words: list[str], tmp_path: Path) -> None:
    swallows = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept: pass\n"
    (tmp_path / "numpy.py").write_text(swallows)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    command = [sys.executable, *words, "--check", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_commands_can_be_interrupted_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["data"])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # to be put back
    interrupts.exit_at_once()
    assert signal.getsignal(signal.SIGINT) != before
    assert command(lambda: signal.getsignal(signal.SIGINT) == before, "data")


def test_interrupted_while_garbage_is_collected() -> None:
    code = """
import gc, os, signal, time
from jaxparse import cli, interrupts
def main():
    interrupts.exit_at_once()
    interrupts.raise_again()
    gc.callbacks.append(lambda *_: gc.callbacks.clear() or os.kill(os.getpid(), signal.SIGINT))
    gc.collect()
    time.sleep(20)
cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_warnings_name_the_file_that_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pillow = compile("warnings.warn('of\\ntwo lines')", "x.py", "exec")

    def main() -> None:
        warnings.warn("no file", stacklevel=1)
        for name in ("a.jpg", "b.jpg"):
            with reading(Path(name)):
                exec(pillow, {"__name__": "PIL.x", "warnings": warnings})

    with pytest.raises(SystemExit), warnings.catch_warnings(action="default"):
        run(main)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: no file", *(f"warning: {x}.jpg: of two lines" for x in "ab")]


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "from jaxparse import cli; cli.run(lambda: [print('x' * 99) for _ in range(9999)] and 0)"
    shell = f'{sys.executable} -c "{code}" | head -n 1; echo "${{PIPESTATUS[0]}}"'
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[1:] == ["141"] and done.stderr == ""


def test_track_yields_the_items_and_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(track(iter("abc"), 3, "counting")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == "" and "counting" in err and "3/3" in err
    assert list(track("abc", 3, "counting", quiet=True)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_until_the_first_item_the_bar_has_another_title_and_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bar, seen = Progress(disable=True), []

    def items() -> Iterator[str]:
        for item in "ab":
            seen.append((bar.tasks[0].description, bar.tasks[0].started))
            yield item

    monkeypatch.setattr(cli, "progress_bar", lambda console: bar)
    assert list(track(items(), 2, "predicting", first="compiling")) == ["a", "b"]
    assert seen == [("compiling", False), ("predicting", True)]
    assert bar.tasks[0].completed == 2
