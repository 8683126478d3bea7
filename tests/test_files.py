from pathlib import Path

import pytest

from jaxparse import files
from jaxparse.files import brief, read_ahead, reason, results, sole_run, unusable
from tests.refusal import refuses


def test_only_a_missing_package_is_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ImportError("no libfoo")
    line = unusable("no_such_package", "video", error)
    assert "missing" in line and line.endswith('pip install "jaxparse[video]"')
    (tmp_path / "broken_package.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    line = unusable("broken_package", "video", error)
    assert "missing" not in line and "no libfoo" in line and "--upgrade" in line


def test_only_what_dead_runs_left_is_removed(tmp_path: Path) -> None:
    for name in (
        ".best.123.safetensors",
        ".metrics.7.jsonl",
        ".results.7.json",
        "best.safetensors",
    ):
        (tmp_path / name).touch()
    with sole_run(tmp_path):
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {".results.7.json", "best.safetensors", "lock"}


def test_reason() -> None:
    error = ValueError(
        'OUT_OF_RANGE: Error writing "x" at local file "/r/c/": Failed to write 29 bytes to file '
        "16: No space left on device [os_error_code='28' source locations='a.cc:1']"
    )
    assert reason(error) == "No space left on device"
    assert reason(ValueError()) == "ValueError"
    assert reason(OSError(28, "No space left on device", "f")) == "No space left on device"
    assert len(reason(ValueError("x" * 5000))) == 121
    assert reason(ValueError("First sentence. Then advice.")) == "First sentence"


def odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even")
    return 10 * value


def test_errors_of_threads_are_values_in_order() -> None:
    found = list(read_ahead(odd, range(20), 3))
    assert [item for item, _ in found] == list(range(20))
    assert [result for _, result in found[1::2]] == [10 * value for value in range(1, 20, 2)]
    assert [str(error) for _, error in found[::2]] == [f"{v} is even" for v in range(0, 20, 2)]
    with refuses("0"):
        list(results(read_ahead(odd, range(3), 2)))
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda value: 1 // value, [1, 0], 2))


def test_reads_only_a_few_items_ahead() -> None:
    taken = []

    def items() -> "list[int]":
        for value in range(1, 100, 2):
            taken.append(value)
            yield value

    reader = read_ahead(odd, items(), 2)
    next(reader)
    assert len(taken) == 5  # 2 * 2 ahead of the first
    reader.close()


def test_outputs_that_cannot_be_written_are_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    files.require_writable_file(tmp_path / "new" / "deep" / "a.json")
    files.require_writable_folder(tmp_path / "new" / "deep")
    files.require_writable_file(tmp_path / "file")
    files.require_writable_folder(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    with refuses("--output", tmp_path / "folder", "folder"):
        files.require_writable_file(tmp_path / "folder")
    with refuses("--workdir", tmp_path / "file", "file"):
        files.require_writable_folder(tmp_path / "file", "--workdir")
    with refuses(tmp_path / "file" / "a", "cannot be written", "Not a directory"):
        files.require_writable_file(tmp_path / "file" / "a")
    with refuses("/proc/self/a.json", "cannot be written"):
        files.require_writable_file(Path("/proc/self/a.json"))


def test_brief_is_one_short_line() -> None:
    assert brief("swin_b") == "swin_b" and brief(3.5) == "3.5" and brief("Gesicht_ä") == "Gesicht_ä"
    assert brief("a\nb\x1b[31m") == r"a\nb\x1b[31m"
    assert brief("x" * 5000) == "x" * 120 + "…" and len(brief("\0" * 5000)) == 121
    assert reason(ValueError("no \x07 bell")) == r"no \x07 bell"
