"""A page to try networks: drop a photograph, look at its parts, download what was found.

    python -m jaxparse.web [--weights FILE_OR_RUN_OR_NAME] [--port 7860]

Gradio, the extra `web`, serves it to this machine alone and fetches nothing from elsewhere. What is
uploaded and made lies in a temporary folder that ends with the command.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("web")

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tyro.conf import Positional

from jaxparse import cli
from jaxparse.data.images import read_image
from jaxparse.devices import use_compilation_cache
from jaxparse.files import reason, unusable
from jaxparse.parsing.overlay import blend
from jaxparse.parsing.parser import Parser
from jaxparse.parsing.regions import cut_out
from jaxparse.parsing.results import Parsing
from jaxparse.weights.files import BEST_WEIGHTS, SHIPPED
from jaxparse.weights.find import find_weights
from jaxparse.weights.hub import cached

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
SHOWN = 1280  # pixels of the longer side of the picture on the page; downloads have all
LARGEST_UPLOAD = "100mb"
POLL = 0.1  # seconds between gradio's looks for work: its own 0.001 and 0.01 keep a core busy
SHIPPED_NAME = f"{SHIPPED.stem}, which comes with jaxparse"
DOWNLOADS = {"mask": "Mask", "region": "Region", "cutout": "Cut-out"}  # file: its button
ABOUT = """\
**Mask**: the class index of every pixel. **Region**: the probability that a pixel is one of the
ticked parts, in grey. **Cut-out**: the photograph, transparent outside of the ticked parts."""
STYLE = "#parts label:nth-of-type({place})::before {{ background: rgb{colour} }}"
CSS = """
#parts label::before { content: ""; width: 1em; height: 1em; border: 1px solid #8888 }
#parts .wrap { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 4px }
#parts label { padding: 4px 6px; font-size: 12px; white-space: nowrap }
[id^=fetch_] { display: none !important }
"""


class Seen(NamedTuple):
    """A photograph, what the network says of it, and both as small as they are shown."""

    name: str  # of its file, without suffix
    picture: Image.Image
    parsing: Parsing
    small: np.ndarray  # uint8 [h, w, 3]
    small_mask: np.ndarray  # uint8 [h, w]


def networks(weights: str | None) -> dict[str, str]:
    """What the page calls them -> what Parser.load takes; the chosen one comes first."""
    found = {weights: weights} if weights else {}
    found[SHIPPED_NAME] = str(SHIPPED)
    found |= {
        str(path.parent): str(path.parent)
        for path in sorted(Path("runs").glob(f"*/{BEST_WEIGHTS}"))
    }
    return found | {name: str(path) for name, path in cached().items() if name not in found}


def see(parser: Parser, path: Path) -> Seen:
    """Raises ValueError if the file is not a picture."""
    picture = read_image(path)
    parsing = parser(picture)
    small = ImageOps.contain(picture, (SHOWN, SHOWN)) if max(picture.size) > SHOWN else picture
    mask = Image.fromarray(parsing.mask).resize(small.size, Image.Resampling.NEAREST)
    return Seen(path.stem, picture, parsing, np.asarray(small), np.asarray(mask))


def draw(seen: Seen, parts: Sequence[str]) -> np.ndarray:
    """The small picture, the parts blended with their colours: uint8 [h, w, 3]."""
    classes = seen.parsing.classes
    shown = np.isin(np.arange(256), [classes.index(part) for part in parts])
    return blend(seen.small, seen.small_mask, classes, shown=shown)


def write(kind: str, seen: Seen, parts: Sequence[str], folder: str) -> Path:
    """A file of one of DOWNLOADS in a new folder in `folder`."""
    path = Path(mkdtemp(dir=folder)) / f"{seen.name}_{kind}.png"
    if kind == "mask":
        seen.parsing.save(path)
        return path
    region = seen.parsing.region(parts)
    pixels = region if kind == "region" else cut_out(np.asarray(seen.picture), region)
    Image.fromarray(pixels).save(path)
    return path


def shares(seen: Seen) -> list[tuple[str, str]]:
    """What is on the photograph, as the page says it and by its name."""
    return [(f"{name} {share:.1%}", name) for name, share in seen.parsing.area().items()]


def swatches(seen: Seen) -> str:
    """The colours of what is on the photograph, for the boxes to tick."""
    classes = seen.parsing.classes
    colours = (classes.colours[classes.index(name)] for name in seen.parsing.area())
    rules = (STYLE.format(place=place, colour=colour) for place, colour in enumerate(colours, 1))
    return f"<style>{' '.join(rules)}</style>"


def can_find_faces() -> bool:
    """Whether the extra `faces` is installed."""
    return find_spec("mtcnn") is not None


def build(
    names: dict[str, str], load: Callable[[str, bool], Parser], folder: str
) -> "gradio.Blocks":
    """The page; `load` takes weights, and whether to find faces."""
    gr = import_gradio()

    def show(path: str | None, network: str, faces: bool) -> tuple[Any, ...]:
        """A new photograph, or another network for it."""
        nothing = None, gr.CheckboxGroup([], value=[], visible=False), None, ""
        if path is None:
            return *nothing, ""
        try:
            seen = see(load(names[network], faces), Path(path))
        except (OSError, ValueError) as error:
            return *nothing, f"**{str(error).replace(path, Path(path).name)}**"
        found, classes = shares(seen), seen.parsing.classes
        ticked = [name for _, name in found if classes.index(name) != classes.background]
        boxes = gr.CheckboxGroup(found, value=ticked, visible=True)
        problem = "" if ticked else "**no face is found: is it small, or turned?**"
        if doubt := seen.parsing.doubt:
            way = "tick the box" if can_find_faces() else 'run: pip install "jaxparse[faces]"'
            problem = f"**no face fills this photograph ({doubt}); to find those in it {way}**"
        return seen, boxes, draw(seen, ticked), swatches(seen), problem

    with gr.Blocks(analytics_enabled=False, title="jaxparse", fill_width=True) as page:
        state, style = gr.State(), gr.HTML(visible="hidden")
        with gr.Row():
            with gr.Column(scale=1):
                file = gr.File(label="Photograph", height=120, elem_id="photo")
                faces = gr.Checkbox(
                    label="Find the faces in it, rather than take it for one face",
                    value=can_find_faces(),
                    visible=can_find_faces(),
                    elem_id="faces",
                )
                problem = gr.Markdown(elem_id="problem")
                network = gr.Dropdown(list(names), label="Network", elem_id="network")
                parts = gr.CheckboxGroup([], label="Parts", visible=False, elem_id="parts")
            with gr.Column(scale=2):
                picture = gr.Image(
                    label="What the network sees",
                    format="jpeg",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="picture",
                )
                with gr.Row():
                    for kind, title in DOWNLOADS.items():
                        add_download(kind, title, folder, [state, parts])
                gr.Markdown(ABOUT)
        shown = [state, parts, picture, style, problem]
        changes = file.change, network.change, faces.change
        gr.on(changes, show, [file, network, faces], shown)
        parts.input(
            lambda seen, ticked: seen and draw(seen, ticked),
            [state, parts],
            picture,
            show_progress="hidden",
        )
    return page


def add_download(kind: str, title: str, folder: str, inputs: list[Any]) -> None:
    """A button that writes a file when it is pressed, and then has the browser fetch it.

    Gradio's own button fetches a file that must be there before: seconds for a large photograph.
    """
    gr = import_gradio()

    def make(seen: Seen | None, parts: list[str]) -> str:
        if seen is None:
            raise gr.Error("Drop a photograph first.", print_exception=False)
        return str(write(kind, seen, parts, folder))

    button = gr.Button(title, min_width=100, elem_id=kind)
    fetch = gr.DownloadButton(elem_id=f"fetch_{kind}")
    click = f"() => document.querySelector('#fetch_{kind}').click()"
    button.click(make, inputs, fetch).success(None, js=click)


def import_gradio() -> Any:  # noqa: ANN401
    """The library. Raises ValueError with the command that installs it."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"no page can be served: {unusable('gradio', 'web', error)}") from error
    return gradio


def require_free(port: int) -> None:
    """Raises ValueError if nothing can be served at that port."""
    try:
        socket.create_server((HOST, port)).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {port} of {HOST} cannot be used ({reason(error)}); give another --port"
        ) from error


def web(weights: Positional[str | None] = None, port: int = 7860) -> None:
    """Serves a page to try networks on photographs, to this machine alone, until Ctrl-C.

    Args:
        weights: A weights file (.safetensors), the folder of a run (its best weights), or a
            repository of the Hugging Face hub (user/name), to start with; the page also offers the
            network that comes with jaxparse, the runs in runs/ and what is in the hub's cache.
        port: Of http://127.0.0.1.
    """
    require_free(port)
    names = networks(weights)
    if weights:
        names[weights] = str(find_weights(weights))
    os.environ["no_proxy"] = "*"  # the weights are here, and gradio calls its own page alone
    import_gradio()

    @lru_cache(maxsize=2)
    def load(weights: str, faces: bool) -> Parser:
        return Parser.load(weights, batch_size=1, faces=faces)

    with cli.busy():
        load(next(iter(names.values())), False)(np.zeros((64, 64, 3), np.uint8))
    with TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(names, load, folder)
        # Gradio looks for work every millisecond, which takes 4 to 8 % of a core; on Windows less.
        page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = POLL
        page.launch(
            server_name=HOST,
            server_port=port,
            max_file_size=LARGEST_UPLOAD,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            css=CSS,
        )
        print(f"http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        page.close(verbose=False)


def main() -> None:
    """Command line of `web`."""
    use_compilation_cache()
    cli.command(web, "web", {"--weights": ""})
