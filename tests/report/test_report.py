import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxparse import cli
from jaxparse.classes import CELEBAMASK
from jaxparse.data.mirrored import read_names, write_names
from jaxparse.parsing.parser import NO_TEST_TIME, TestTime
from jaxparse.report import __main__ as report_module
from jaxparse.report.__main__ import MIRRORED_LIST, describe, main
from jaxparse.scoring.counts import total
from jaxparse.scoring.scores import Scores, joined_scores, mean_ious
from jaxparse.weights.files import BEST_WEIGHTS, NETWORK_FIELDS, PREPROCESSING_FIELDS, flatten
from tests.conftest import Nano
from tests.parsed import share_program
from tests.report.known import (
    COUNT,
    GUESSED,
    MIRRORED_MASKS,
    WRONG_MASK,
    StubParser,
    counted,
    name,
    rows,
    section,
    shown,
)

HEADINGS = ["Scores", "Curves", "Classes", "Confusion", "Worst pictures", "Best pictures"]
HEADINGS += ["Label suspects", "Mirrored masks", "Recipe"]


def headings(page: str) -> list[str]:
    """The sections' headings; each is linked at the top."""
    found = re.findall(r'<h2 id="(\d)">(.*?)</h2>', page)
    assert re.findall(r'<a href="#(\d)">(.*?)</a>', page) == found
    return [heading for _, heading in found]


def test_sections_are_there_and_linked(page: str) -> None:
    assert headings(page) == HEADINGS


def test_scores(page: str) -> None:
    confusions = np.stack([counts.confusion for counts in counted()])
    summary = Scores.of(*total(counted())).summary()
    figures = dict(re.findall("<div>([^<]*?)<b>(.*?)</b>", section(page, "Scores")))
    straight = confusions.copy()
    for index in MIRRORED_MASKS:
        straight[index] = straight[index][CELEBAMASK.mirrored]
    expected = {
        "mIoU": summary["mIoU"],
        "mIoU, left and right joined": joined_scores(confusions.sum(0), CELEBAMASK).mean_iou,
        "mIoU, mirrored masks set right": float(mean_ious(straight.sum(0))),
        "boundary IoU": summary["mBoundaryIoU"],
        "aAcc": summary["aAcc"],
        "mAcc": summary["mAcc"],
        "mF1": summary["mF1"],
        "mF1 without background": summary["mF1_without_background"],
    }
    assert figures == {title: f"{100 * value:.2f}" for title, value in expected.items()}
    assert expected["mIoU, mirrored masks set right"] > expected["mIoU"]


def test_classes_and_their_change(page: str) -> None:
    table, scores = rows(section(page, "Classes")), Scores.of(*total(counted()))
    assert table["class"] == ["pixels", "IoU", "change", "Acc", "F1", "boundary IoU"]
    for index, title in enumerate(CELEBAMASK.names):
        values = [f"{100 * values[index]:.2f}" for values in scores.per_class().values()]
        values = ["–" if value == "nan" else value for value in values]
        change = "–" if title == "hat" else "-6.25"
        assert table[title.replace("_", " ")][1:] == [values[0], change, *values[1:]]
    shares = [float(table[title.replace("_", " ")][0]) for title in CELEBAMASK.names]
    assert sum(shares) == pytest.approx(100, abs=19 * 0.005)  # each rounded to 0.01
    assert table["mean"][1:3] == [f"{100 * scores.mean_iou:.2f}", "-12.50"]
    assert "from step 20 to 30" in page


def test_worst_and_best_pictures(page: str) -> None:
    means = mean_ious(np.stack([counts.confusion for counts in counted()]))
    order = np.argsort(means).tolist()
    assert shown(section(page, "Worst pictures")) == order[:3]
    assert order[0] == GUESSED
    assert shown(section(page, "Best pictures")) == order[:-4:-1]
    assert f"mIoU {100 * means[GUESSED]:.2f}. Lowest IoU: " in section(page, "Worst pictures")


def test_wrong_masks_are_suspected(page: str) -> None:
    suspects = section(page, "Label suspects")
    assert shown(suspects)[0] == WRONG_MASK
    assert "background taken for hair" in suspects
    assert GUESSED not in shown(suspects)
    mirrored = section(page, "Mirrored masks")
    assert sorted(shown(mirrored)) == sorted(MIRRORED_MASKS)
    assert f"2 of {COUNT}" in mirrored
    table = rows(mirrored)
    for index in MIRRORED_MASKS:
        confusion = counted()[index].confusion
        brows = confusion[6, 7] + confusion[7, 6], confusion[6:8, 6:8].sum()
        assert table[name(index)][1] == "{:,} of {:,}".format(*brows)


def test_mirrored_masks_are_listed_as_they_are_on_disk(
    page: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = run / MIRRORED_LIST
    assert read_names(listed) == {name(index) for index in MIRRORED_MASKS}
    wrong = tmp_path / "list.txt"
    write_names(wrong, {name(MIRRORED_MASKS[0]), name(0)})
    monkeypatch.setattr(report_module, "Parser", StubParser)
    report_module.report(str(run), mirrored_masks=str(wrong), output=tmp_path / "again.html")
    assert (tmp_path / MIRRORED_LIST).read_text() == listed.read_text()
    mirrored = section((tmp_path / "again.html").read_text(encoding="utf-8"), "Mirrored masks")
    assert sorted(shown(mirrored)) == [0, MIRRORED_MASKS[1]]


def test_recipe_and_parameters(page: str, nano: Nano) -> None:
    recipe = section(page, "Recipe")
    settings = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", recipe))
    assert settings["backbone"] == "mini" and settings["image_size"] == "64"
    assert settings["workdir"] == "&lt;script&gt;"
    assert '<div class="changed"><dt>backbone' in recipe and "<div><dt>head</dt>" in recipe
    number = sum(array.size for array in flatten(nano.params).values())
    assert rows(recipe)["total"] == [f"{number:,}"]


class Checker(HTMLParser):
    """Checks that every element ends and that nothing is loaded from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.images, self.text = [], 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object", "i")
        assert given.get("src", "data:image/").startswith("data:image/")
        assert given.get("href", "#").startswith("#")
        assert not any(key.startswith("on") or key == "srcset" for key in given)
        if tag == "img":
            assert given["alt"]
            self.images += 1
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_whole_escaped_and_refers_to_nothing_else(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    # 3 worst, 3 best, 3 suspects, 2 mirrored, of 4 panels each; curves and confusion.
    assert checker.images == 4 * 11 + 2
    assert name(GUESSED) in checker.text
    assert "a <b> run" in checker.text and "<script>" in checker.text
    plain = re.sub('data:image/[^"]*', "", page)
    assert not re.search(r"https?:|//|url\(|@import", plain)


@pytest.fixture
def command(
    nano: Nano, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line; its exit code, what it printed on stdout and on stderr."""
    share_program(monkeypatch, nano)

    def run(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["report", *map(str, flags)])
        with pytest.raises(SystemExit) as caught:
            cli.run(main)
        return caught.value.code, *capsys.readouterr()

    return run


def test_command_line_with_a_network(command: Callable, run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "page.html"
    flags = ("--flip", "--pictures", 20, "--output", output)
    code, out, err = command("--weights", run, *flags)
    assert code == 0
    assert str(output) in out and "evaluating" in err
    page = output.read_text(encoding="utf-8")
    assert "; flip True." in page
    worst, best = (shown(section(page, f"{kind} pictures")) for kind in ("Worst", "Best"))
    assert sorted(worst) == list(range(COUNT)) and best == []


def test_a_weights_file_has_no_curves_and_its_page_lies_here(
    command: Callable,
    run: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("--weights", run / BEST_WEIGHTS, "--data-dir", data_dir, "--pictures", 1)
    assert code == 0 and "report.html" in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert headings(page) == [*(each for each in HEADINGS[:-1] if each != "Curves"), "Network"]
    # Not the defaults of a recipe: the file holds none.
    settings = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", section(page, "Network")))
    assert settings.keys() == {*NETWORK_FIELDS, *PREPROCESSING_FIELDS}
    assert settings["backbone"] == "mini" and "changed" not in section(page, "Network")
    changes = {cells[2] for first, cells in rows(section(page, "Classes")).items()}
    assert changes == {"change", "–"}


def run_without(run: Path, folder: Path, file: str) -> Path:
    shutil.copytree(run, folder)
    (folder / file).unlink()
    return folder


@pytest.mark.parametrize(
    ("arrange", "flags", "word"),
    [
        (lambda run, to: to, [], "{to}"),
        (lambda run, to: run_without(run, to, "config.json"), [], "config.json"),
        (lambda run, to: run_without(run, to, "metrics.jsonl"), [], "metrics.jsonl"),
        (lambda run, to: run, ["--data-dir", "nowhere"], "nowhere"),
        (lambda run, to: run, ["--pictures", "0"], "--pictures"),
    ],
    ids=["no run", "no config", "no log", "no data", "no pictures"],
)
def test_bad_input_ends_in_one_line(
    command: Callable,
    run: Path,
    tmp_path: Path,
    arrange: Callable[[Path, Path], Path],
    flags: list[str],
    word: str,
) -> None:
    to, output = tmp_path / "run", tmp_path / "report.html"
    code, _, err = command("--weights", arrange(run, to), "--output", output, *flags)
    assert code == 1 and not output.exists()
    assert err.startswith("error: ") and err.count("\n") == 1
    assert word.format(to=to) in err


def test_test_time_augmentation_in_words() -> None:
    assert describe(NO_TEST_TIME) == "no test-time augmentation"
    words = describe(TestTime(scales=(0.5, 1.0), flip=True))
    assert words == "flip True, scales (0.5, 1.0)"
