"""The code of docs/deploy.md, run as it stands on pictures from phones and with transparency."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxparse import Parser, export
from jaxparse.data.images import read_image
from jaxparse.exporting.check import LIMITS
from jaxparse.weights.files import SHIPPED, network_fields
from tests import browser
from tests.conftest import Nano
from tests.parsed import face, share_program

PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"


def code(heading: str, language: str) -> str:
    """The first example in that language under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


def photograph(path: Path, kind: str) -> None:
    """A face that EXIF turns, or one on transparent ground of another colour; not square."""
    pixels = Image.fromarray(face(1, (80, 60)))
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # stored a quarter turn to the left
        turned = pixels.transpose(Image.Transpose.ROTATE_90)
        turned.save(path, "png", exif=exif)
    else:
        alpha = np.zeros((80, 60), np.uint8)
        alpha[10:70, 10:50] = 255
        pixels.putalpha(Image.fromarray(alpha))
        pixels.save(path, "png")


@pytest.fixture(scope="module")
def exported(nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("onnx") / "swin_t.onnx"
    export.export(nano.weights, to="onnx", output=path)
    return path


@pytest.fixture
def folder(nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    share_program(monkeypatch, nano)
    return tmp_path


def parsed(nano: Nano) -> np.ndarray:
    """What predict makes of photo.jpg at the network's size: uint8 [64, 64]."""
    picture = read_image(Path("photo.jpg"))
    assert picture.size == (60, 80)
    small = picture.resize((64, 64), Image.Resampling.BILINEAR)
    mask = Parser.load(nano.weights, batch_size=4)(small).mask
    assert len(np.unique(mask)) > 3
    return mask


def enlarged(mask: np.ndarray) -> np.ndarray:
    """At the size of photo.jpg."""
    return np.asarray(Image.fromarray(mask).resize((60, 80), Image.Resampling.NEAREST))


@pytest.mark.filterwarnings("ignore:os.fork")  # openvino's
@pytest.mark.parametrize("kind", ["turned", "transparent"])
def test_onnxruntime_and_openvino(kind: str, nano: Nano, exported: Path, folder: Path) -> None:
    shutil.copy(exported, folder)
    photograph(Path("photo.jpg"), kind)
    names: dict[str, Any] = {}
    exec(code("onnxruntime", "python"), names)
    with Image.open("mask.png") as mask:
        np.testing.assert_array_equal(mask, enlarged(parsed(nano)))
        palette = np.array(mask.getpalette(), np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(palette[: len(names["names"])], nano.config.classes.colours)
    assert names["names"] == list(nano.config.classes.names)
    pytest.importorskip("openvino")
    exec(code("OpenVINO", "python"), names)
    np.testing.assert_array_equal(names["mask"][0], parsed(nano))


@pytest.mark.full
def test_jax_without_jaxparse(nano: Nano, folder: Path) -> None:
    export.export(nano.weights, to="stablehlo", output=Path("swin_t.zip"))
    image = face(1, (64, 64))
    names = {"image": image[None]}
    exec(code("JAX without jaxparse", "python"), names)
    expected = Parser.load(nano.weights, batch_size=4)(image).mask
    np.testing.assert_array_equal(names["mask"], expected[None])


@pytest.mark.full
def test_tensorflow_lite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = "export", SHIPPED, "--to", "tflite", "--output", "swin_t.tflite"
    line = [sys.executable, "-m", "jaxparse", *map(str, command)]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}  # jax sets one
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=plain)
    side = network_fields(SHIPPED)["image_size"]
    assert done.stderr == "" and f"[N, {side}, {side}, 3]" in done.stdout
    image = face(1, (side, side))
    names = {"image": image[None]}
    with warnings.catch_warnings():  # the interpreter moves to a package of its own
        warnings.simplefilter("ignore")
        exec(code("TensorFlow Lite", "python"), names)
    assert names["side"] == side
    np.testing.assert_array_equal(names["mask"], Parser.load()(image).mask[None])


@pytest.fixture
def site(folder: Path) -> Iterator[str]:
    """The address of the folder, which has the newest onnxruntime-web of npm."""
    if missing := browser.missing(
        npm=shutil.which("npm"), onnxruntime=export.util.find_spec("onnx")
    ):
        pytest.skip(f"needs {', '.join(missing)}")
    got = subprocess.run(["npm", "install", "onnxruntime-web"], capture_output=True, check=False)
    if got.returncode:
        pytest.skip("npm cannot install onnxruntime-web")
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.full
def test_in_a_browser(nano: Nano, exported: Path, folder: Path, site: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    shutil.copy(exported, folder)
    Path("page.html").write_text(code("In a browser", "html"))
    pixels = "return [...arguments[0].getContext('2d').getImageData(0, 0, 64, 64).data]"
    with browser.opened(folder) as driver:
        for kind in ("turned", "transparent"):
            photograph(Path("photo.jpg"), kind)
            driver.get(f"{site}/page.html")
            driver.find_element("css selector", "input").send_keys(str(folder / "photo.jpg"))
            canvas = driver.find_element("css selector", "canvas")
            WebDriverWait(driver, 60).until(lambda _, c=canvas: c.get_attribute("width") == "64")
            shown = np.reshape(driver.execute_script(pixels, canvas), (64, 64, 4))
            same = (shown[..., 0] == 40 * parsed(nano).astype(int) % 256).mean()
            # Pillow rounds its weights: levels may differ by one, as coarse as a map in 16 bits.
            assert same >= LIMITS["float16"].masks, kind
