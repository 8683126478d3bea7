"""The page without a browser, and in one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import cached_assets_path
from PIL import Image

from jaxparse import Parser, web
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.masks import read_label
from jaxparse.parsing.overlay import blend
from jaxparse.weights.files import SHIPPED
from jaxparse.weights.hub import ASSETS
from tests.browser import missing, opened
from tests.conftest import Nano
from tests.foreign import offline_hub
from tests.refusal import refuses

MISSING = missing(gradio=find_spec("gradio"))


@pytest.fixture(scope="module")
def parser() -> Parser:
    return Parser.load(batch_size=1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a face.png"
    Image.fromarray(draw_face(0, 4, 200)[0][:180]).save(path)
    return path


def test_networks_on_this_disk_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano: Nano
) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = "someone/ours", "some-one/their.network"
    folders = offline_hub(tmp_path / "cache", monkeypatch, {ours: Path(nano.weights)})
    converted = cached_assets_path(ASSETS, theirs, "0123") / "model.safetensors"
    shutil.copy(nano.weights, converted)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    shutil.copy(nano.weights, tmp_path / "runs" / "one" / "best.safetensors")
    (tmp_path / "runs" / "two").mkdir()
    damaged = folders[ours].parent / "later" / "model.safetensors"
    damaged.parent.mkdir()
    damaged.write_bytes(b"")
    found = web.networks("my.safetensors")
    assert list(found.items()) == [
        ("my.safetensors", "my.safetensors"),
        (web.SHIPPED_NAME, str(SHIPPED)),
        ("runs/one", "runs/one"),
        *sorted(
            [(ours, str(folders[ours] / "model.safetensors")), (theirs, str(converted))],
            key=lambda item: os.stat(item[1]).st_mtime,
        ),
    ]
    assert next(iter(web.networks(None))) == web.SHIPPED_NAME


def test_what_is_shown_and_downloaded(
    parser: Parser, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SHOWN", 100)
    seen = web.see(parser, photo)
    expected, classes = parser(photo), parser.classes
    assert seen.small.shape == (90, 100, 3)
    np.testing.assert_array_equal(web.draw(seen, []), seen.small)
    blended = blend(seen.small, seen.small_mask, classes)
    np.testing.assert_array_equal(web.draw(seen, classes.names[1:]), blended)
    hair = seen.small_mask == classes.index("hair")
    changed = (web.draw(seen, ["hair"]) != seen.small).any(-1)
    assert 0.1 < hair.mean() < 0.9
    np.testing.assert_array_equal(changed, hair)
    mask = web.write("mask", seen, ["hair"], str(tmp_path))
    assert mask.name == "a face_mask.png"
    np.testing.assert_array_equal(read_label(mask), expected.mask)
    parts = ["hair", "skin"]
    soft = sum(expected.probability(part) for part in parts)
    with Image.open(web.write("region", seen, parts, str(tmp_path))) as region:
        np.testing.assert_allclose(region, 255 * soft, atol=0.51)
    with Image.open(web.write("cutout", seen, parts, str(tmp_path))) as cutout:
        np.testing.assert_array_equal(cutout.getchannel("A"), region)
        np.testing.assert_array_equal(cutout.convert("RGB"), Image.open(photo))
    assert dict(map(reversed, web.shares(seen)))["hair"].startswith("hair ")


def test_without_gradio_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with refuses("missing", 'pip install "jaxparse[web]"'):
        web.import_gradio()


def free_port() -> int:
    with socket.create_server((web.HOST, 0)) as server:
        return server.getsockname()[1]


def test_a_port_in_use_is_named() -> None:
    with socket.create_server((web.HOST, 0)) as server:
        port = server.getsockname()[1]
        with refuses(port, "--port"):
            web.web(port=port)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A served page; Ctrl-C must end it without a trace."""
    command = [sys.executable, "-m", "jaxparse.web", "--port", str(free_port())]
    errors = tmp_path / "errors"
    proxies = dict.fromkeys(("http_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    proxies["all_proxy"] = "socks5://127.0.0.1:9"  # none is asked for this machine's page
    # Ctrl-C is ignored in what a shell has started in the background.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=file,
            cwd=tmp_path,
            text=True,
            env=os.environ | proxies,
        ) as process,
    ):
        signal.signal(signal.SIGINT, handler)
        line = process.stdout.readline()
        yield line.split()[0]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 0
    assert errors.read_text() == ""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium, which saves downloads in the test's folder."""
    with opened(tmp_path / "downloads") as driver:
        yield driver


@pytest.mark.full
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_a_photograph_in_a_browser(
    address: str,
    browser: Any,  # noqa: ANN401
    parser: Parser,
    photo: Path,
    tmp_path: Path,
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector: str) -> Any:  # noqa: ANN401
        wait = WebDriverWait(browser, 120)
        return wait.until(lambda driver: driver.find_elements("css selector", selector))[0]

    def downloaded(kind: str) -> Path:
        find(f"#{kind}").click()
        path = tmp_path / "downloads" / f"{photo.stem}_{kind}.png"
        WebDriverWait(browser, 120).until(lambda _: path.exists())
        return path

    browser.get(address)
    find("#network")
    for box in browser.find_elements("css selector", "#faces input"):
        box.click()  # where the extra is installed: the drawn face fills its picture
    (tmp_path / "text.jpg").write_text("no picture")
    find("#photo input[type=file]").send_keys(str(tmp_path / "text.jpg"))
    assert "text.jpg is not a picture" in find("#problem strong").text
    find("#photo button[aria-label='Remove this file'], #photo button").click()
    find("#photo input[type=file]").send_keys(str(photo))
    shown = find("#picture img").get_attribute("src")
    expected = parser(photo)
    assert len(browser.find_elements("css selector", "#parts label")) == len(expected.area())
    np.testing.assert_array_equal(read_label(downloaded("mask")), expected.mask)
    [hair] = browser.find_elements("css selector", "#parts input[name=hair]")
    assert hair.is_selected()
    hair.click()
    WebDriverWait(browser, 120).until(lambda _: find("#picture img").get_attribute("src") != shown)
    ticked = [name for name in expected.area() if name not in ("background", "hair")]
    soft = sum(expected.probability(name) for name in ticked)
    with Image.open(downloaded("region")) as region:
        np.testing.assert_allclose(region, 255 * soft, atol=0.51)
    with Image.open(downloaded("cutout")) as cutout:
        np.testing.assert_array_equal(cutout.getchannel("A"), region)
