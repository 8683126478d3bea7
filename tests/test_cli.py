import errno
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress
from tyro.conf import Positional

from jaxparse import cli
from jaxparse.__main__ import start
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


@pytest.mark.parametrize(
    "words",
    [
        "a b --output o --hard",
        "--input a b --output o --hard",
        "--output o --hard --input a b",
        "a --hard --input b --output o",
        "b --hard --input=a --output o",
        "--output o --hard --in a --input b",
    ],
)
def test_positional_arguments_may_be_given_by_a_flag(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(input: Positional[list[Path]], output: str, hard: bool = False) -> str:
        return f"{sorted(map(str, input))} {output} {hard}"

    monkeypatch.setattr(sys, "argv", ["predict", *words.split()])
    shown = command(show, "predict", {"--input": "", "--in": ""})
    assert shown == "['a', 'b'] o True"


def test_other_words_are_kept() -> None:
    words = ["=x", "", "--size=3"]
    assert cli.arranged(words, {"--input": ""}) == words


def test_usage_names_the_command_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/lib/jaxparse/train.py"])
    assert prog("train") == "python -m jaxparse.train"
    monkeypatch.setattr(sys, "argv", ["jaxparse train"])
    assert prog("train") == "jaxparse train"


def test_a_file_that_is_replaced_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with cli.written(tmp_path / "x.json") as temporary:
            temporary.write_text("{}")
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"written to {tmp_path}/x.json"
    assert second == f"{first}, in place of the file that was there"


def test_counts_of_one_are_singular() -> None:
    assert [cli.counted(n, "mask") for n in range(3)] == ["0 masks", "1 mask", "2 masks"]


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


def test_a_command_that_runs_can_be_interrupted_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr(cli, "command", lambda *_: seen.append(signal.getsignal(signal.SIGINT)))
    with pytest.raises(SystemExit):
        start("synthetic")
    assert seen == [before] == [signal.getsignal(signal.SIGINT)]


def test_interrupted_while_garbage_is_collected() -> None:
    code = """
import gc, os, signal, time
from jaxparse import cli
def main():
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


@pytest.mark.parametrize(
    ("speed", "elapsed", "shown"),
    [
        (53135, 0.9, ""),
        (53135, 9, "53135/s"),
        (3.125, 9, "3.12/s"),
        (10, 9, "10.0/s"),
        (0.0123, 9, "0.0123/s"),
    ],
)
def test_a_rate_has_three_digits_after_a_second(speed: float, elapsed: float, shown: str) -> None:
    task = SimpleNamespace(finished_speed=None, speed=speed, elapsed=elapsed)
    assert str(cli.RateColumn().render(task)) == shown


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
