import errno

import pytest

from jaxparse.cli import run


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


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_returned_code_is_the_exit_code(returned: int | None, code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda: returned)
    assert caught.value.code == code


def test_a_bug_keeps_its_trace() -> None:
    with pytest.raises(KeyError):
        run(lambda: {}["missing"])
