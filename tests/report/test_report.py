import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxparse import cli
from jaxparse.classes import MIRRORED, NAMES
from jaxparse.config import read_config, save_config
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import write_image, write_mask
from jaxparse.parsing import parser
from jaxparse.report import __main__ as report_module
from jaxparse.report.__main__ import report
from jaxparse.report.sections import draw_confusion, last_change, worst_errors
from jaxparse.scoring.counts import Counts, count, total
from jaxparse.scoring.scores import Scores, joined_scores, mean_ious
from jaxparse.weights.files import BEST_WEIGHTS, flatten
from tests.conftest import Nano

COUNT, SIDE = 14, 64
NAME = "face <i>&amp;</i> {}"  # to be escaped
MIRRORED_MASKS, WRONG_MASK, GUESSED = (2, 11), 5, 8
EVALUATIONS = {10: 0.25, 20: 0.5, 30: 0.375}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def face(index: int) -> tuple[np.ndarray, np.ndarray]:
    return draw_face(0, index, SIDE)


def mask_on_disk(index: int) -> np.ndarray:
    label = face(index)[1].copy()
    if index in MIRRORED_MASKS:
        label = MIRRORED[label].astype(np.uint8)
    if index == WRONG_MASK:
        label[label == 13] = 0  # hair that was not marked
    label[:, :2] = 255
    return label


def prediction_of(index: int) -> np.ndarray:
    """Near-perfect; but of one picture the network has no idea."""
    _, label = face(index)
    return np.full_like(label, 1) if index == GUESSED else np.roll(label, 1, axis=0)


def counted() -> list[Counts]:
    return [count(mask_on_disk(index), prediction_of(index)) for index in range(COUNT)]


class StubParser:
    """Knows the pictures and what to say of each."""

    def __init__(self, *_: object) -> None:
        self.known = {face(index)[0].tobytes(): index for index in range(COUNT)}

    def prepare(self, picture: Image.Image, label: np.ndarray) -> SimpleNamespace:
        index = self.known[np.asarray(picture).tobytes()]
        sure = np.full(label.shape, 0.1 if index == GUESSED else 0.9, np.float32)
        mask = prediction_of(index)
        return SimpleNamespace(source=picture, label=label, mask=mask, confidence=lambda: sure)

    def parse(self, pictures: Iterable[SimpleNamespace]) -> Iterator[SimpleNamespace]:
        yield from pictures


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(COUNT):
        name = f"{NAME.format(index).replace('/', chr(0x2044))}.png"
        write_image(folder / "val" / "images" / name, face(index)[0])
        write_mask(folder / "val" / "masks" / name, mask_on_disk(index))
    return folder


@pytest.fixture(scope="module")
def run(nano: Nano, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a <b> run"
    folder.mkdir()
    save_config(replace(nano.config, data_dir=str(data_dir), workdir="<script>"), folder)
    shutil.copy(nano.weights, folder / "best.safetensors")
    rows = [{"step": step, "train/loss": 9 / step} for step in range(5, 35, 5)]
    for step, value in EVALUATIONS.items():
        classes = {f"IoU/{name}": value / 2 for name in NAMES if name != "hat"}
        rows += [{"step": step} | classes, {"step": step, "val/mIoU": value, "val/aAcc": 0.5}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    """The page that the stub network gets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "Parser", StubParser)
        report(run, pictures=3)
    return (run / "report.html").read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    return re.search(rf">{heading}</h2>(.*?)</section>", page, re.S).group(1)


def rows(html: str) -> dict[str, list[str]]:
    """Text of the cells of tables, by that of the first of each row."""
    texts = (
        [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<t[hd].*?</t[hd]>", row)]
        for row in re.findall("<tr>.*?</tr>", html)
    )
    return {first: others for first, *others in texts}


def shown(html: str) -> list[int]:
    """The pictures of a section, by their headings."""
    return [int(unescape(name).split()[-1]) for name in re.findall("<h3>(.*?)</h3>", html)]


def test_sections_are_there_and_linked(page: str) -> None:
    headings = re.findall(r'<h2 id="(\d)">(.*?)</h2>', page)
    assert [heading for _, heading in headings] == [
        *("Scores", "Curves", "Classes", "Confusion", "Worst pictures", "Best pictures"),
        *("Label suspects", "Mirrored masks", "Recipe"),
    ]
    assert re.findall(r'<a href="#(\d)">(.*?)</a>', page) == headings


def test_scores(page: str) -> None:
    confusions = np.stack([counts.confusion for counts in counted()])
    summary = Scores.of(*total(counted())).summary()
    tiles = dict(re.findall("<div>([^<]*?)<b>(.*?)</b>", section(page, "Scores")))
    straight = confusions.copy()
    for index in MIRRORED_MASKS:
        straight[index] = straight[index][MIRRORED]
    wanted = {
        "mIoU": summary["mIoU"],
        "mIoU, left and right joined": joined_scores(confusions.sum(0)).mean_iou,
        "mIoU, mirrored masks set right": float(mean_ious(straight.sum(0))),
        "boundary IoU": summary["mBoundaryIoU"],
        "aAcc": summary["aAcc"],
        "mAcc": summary["mAcc"],
        "mF1": summary["mF1"],
        "mF1 without background": summary["mF1_without_background"],
    }
    assert tiles == {title: f"{100 * value:.2f}" for title, value in wanted.items()}
    assert wanted["mIoU, mirrored masks set right"] > wanted["mIoU"] + 0.01


def test_classes_and_their_change(page: str) -> None:
    table, result = rows(section(page, "Classes")), Scores.of(*total(counted()))
    assert table["class"] == ["pixels", "IoU", "change", "Acc", "F1", "boundary IoU"]
    for index, name in enumerate(NAMES):
        values = [f"{100 * values[index]:.2f}" for values in result.per_class().values()]
        values = ["–" if value == "nan" else value for value in values]
        change = "–" if name == "hat" else "-6.25"
        assert table[name.replace("_", " ")][1:] == [values[0], change, *values[1:]]
    assert sum(float(table[name.replace("_", " ")][0]) for name in NAMES) == pytest.approx(
        100, abs=0.1
    )
    assert table["mean"][1:3] == [f"{100 * result.mean_iou:.2f}", "-12.50"]
    assert "from step 20 to 30" in page


def test_change_of_a_run_with_one_evaluation_or_none(run: Path) -> None:
    log = report_module.read_runs([run])[0]
    begun = [row for row in log.rows if row["step"] <= 10]
    assert np.isnan(last_change(log._replace(rows=begun), "val/mIoU"))
    assert np.isnan(last_change(log._replace(rows=[]), "val/mIoU"))
    assert last_change(log, "val/mIoU") == -0.125


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
    assert f"exchanged: 2 of {COUNT}" in mirrored
    table = rows(mirrored)
    for index in MIRRORED_MASKS:
        confusion = counted()[index].confusion
        brows = confusion[6, 7] + confusion[7, 6], confusion[6:8, 6:8].sum()
        assert table[NAME.format(index).replace("/", "⁄")][1] == "{:,} of {:,}".format(*brows)


def test_recipe_and_parameters(page: str, nano: Nano) -> None:
    recipe = section(page, "Recipe")
    settings = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", recipe))
    assert settings["backbone"] == "mini" and settings["image_size"] == "64"
    assert settings["workdir"] == "&lt;script&gt;"
    assert '<div class="changed"><dt>backbone' in recipe and "<div><dt>head</dt>" in recipe
    number = sum(array.size for array in flatten(nano.params).values())
    assert rows(recipe)["total"] == [f"{number:,}"]


class Checker(HTMLParser):
    """Holds that every element ends and that nothing is loaded from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.images, self.text = [], 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object", "i")
        assert given.get("src", "data:image/").startswith("data:image/")
        assert given.get("href", "#").startswith("#")
        assert not any(name.startswith("on") or name == "srcset" for name in given)
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
    assert NAME.format(GUESSED).replace("/", "⁄") in checker.text
    assert "a <b> run" in checker.text and "<script>" in checker.text
    plain = re.sub('data:image/[^"]*', "", page)
    assert not re.search(r"https?:|//|url\(|@import", plain)


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """Serves `.content` as /page of `.host`; `.requests` are what it asks for, of any host."""
    found = SimpleNamespace(content="", requests=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            # Browsers ask of their own for icons, and, without a Referer, of their maker.
            if self.headers["Referer"] and self.path != "/favicon.ico":
                found.requests.append(self.headers["Host"] + self.path)
            content = found.content.encode() if self.path == "/page" else b""
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found.host = f"127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield found
        http.shutdown()
        thread.join()


def browse(server: SimpleNamespace, content: str, profile: Path) -> dict[str, Any]:
    """What a browser says of the page, and adds to `server.requests`."""
    script = """<script>addEventListener("load", () => {
      const widths = [...document.images].map(image => image.naturalWidth);
      const wide = document.documentElement.scrollWidth;
      document.body.textContent = "told:" + JSON.stringify({widths, wide}) + ":end";
    });</script>"""
    server.content = content.replace("</body>", script + "</body>")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,800")
    flags += (f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom")
    flags += (f"--host-resolver-rules=MAP * {server.host}",)
    command = [CHROMIUM, *flags, f"http://{server.host}/page"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(unescape(re.search("told:(.*):end", dom).group(1)))


@pytest.mark.full
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here; apt-get install chromium")
def test_a_browser_shows_all_and_fetches_nothing(
    page: str, server: SimpleNamespace, tmp_path: Path
) -> None:
    told = browse(server, page, tmp_path / "profile")
    assert len(told["widths"]) == page.count("<img") == 46
    assert min(told["widths"]) == SIDE
    assert told["wide"] <= 1000  # nothing to scroll sideways for
    assert server.requests == []
    other = page.replace("</body>", '<img src="http://a.example/x.png"><img src="y.png"></body>')
    assert browse(server, other, tmp_path / "profile")["widths"][-2:] == [0, 0]
    assert sorted(server.requests) == [f"{server.host}/y.png", "a.example/x.png"]


def test_command_line_with_a_network(
    nano: Nano,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = lambda config: lambda params, batch_stats, image: nano.network(image)  # noqa: E731
    monkeypatch.setattr(parser, "make_logits_step", step)
    output = tmp_path / "new" / "page.html"
    flags = ("--flip", "--pictures", "20", "--output", str(output))
    monkeypatch.setattr(sys, "argv", ["report", "--weights", str(run), *flags])
    with pytest.raises(SystemExit) as caught:
        cli.run(report_module.main)
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert printed.out == f"written to {output}\n" and "evaluating" in printed.err
    page = output.read_text(encoding="utf-8")
    assert "; flip True." in page
    worst, best = (shown(section(page, f"{kind} pictures")) for kind in ("Worst", "Best"))
    assert sorted(worst) == list(range(COUNT)) and best == []


def test_weights_without_a_run_have_no_curves(
    nano: Nano, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = lambda config: lambda params, batch_stats, image: nano.network(image)  # noqa: E731
    monkeypatch.setattr(parser, "make_logits_step", step)
    monkeypatch.chdir(tmp_path)
    data_dir = read_config(run).data_dir
    report(str(run / BEST_WEIGHTS), data_dir=data_dir, pictures=1, batch_size=4)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Curves" not in page and "Confusion" in page


def run_without(run: Path, folder: Path, file: str) -> Path:
    shutil.copytree(run, folder)
    (folder / file).unlink()
    return folder


@pytest.mark.parametrize(
    ("arrange", "flags", "words"),
    [
        (lambda run, to: to, [], "there is no file or run"),
        (lambda run, to: run_without(run, to, "config.json"), [], "config.json"),
        (lambda run, to: run_without(run, to, "metrics.jsonl"), [], "metrics.jsonl"),
        (lambda run, to: run, ["--data-dir", "nowhere"], "nowhere"),
        (lambda run, to: run, ["--pictures", "0"], "--pictures is 0"),
    ],
)
def test_bad_input_ends_in_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arrange: Callable[[Path, Path], Path],
    flags: list[str],
    words: str,
) -> None:
    folder, output = arrange(run, tmp_path / "run"), tmp_path / "report.html"
    monkeypatch.setattr(
        sys, "argv", ["report", "--weights", str(folder), "--output", str(output), *flags]
    )
    with pytest.raises(SystemExit) as caught:
        cli.run(report_module.main)
    printed = capsys.readouterr().err
    assert caught.value.code == 1 and not output.exists()
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert words in printed


def test_errors_of_a_picture_in_words() -> None:
    confusion = np.zeros((19, 19), np.int64)
    confusion[1, 1], confusion[17, 17] = 60, 30
    assert worst_errors(confusion) == "Nothing is wrong."
    confusion[1, 17] = 10
    assert worst_errors(confusion) == (
        "Lowest IoU: neck 75.00, skin 85.71. Most pixels: skin taken for neck (10.00 %)."
    )


def test_confusion_is_in_percent_of_the_label() -> None:
    confusion = np.zeros((19, 19), np.int64)
    confusion[1, 1], confusion[1, 17], confusion[17, 17] = 3, 1, 1000
    figure = draw_confusion(confusion)
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(1, 1): "75", (17, 1): "25", (17, 17): "100"}
