import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from tests.report.known import SIDE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """Serves `.content` as /page of `.host`, and `.frame` around it as /; `.requests` are those of
    the page, to any host."""
    site = SimpleNamespace(content="", frame="", requests=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            # Without what browsers ask for themselves: icons, and their maker (no Referer).
            if self.headers["Referer"] and self.path not in ("/favicon.ico", "/page"):
                site.requests.append(self.headers["Host"] + self.path)
            pages = {"/page": site.content, "/": site.frame}
            content = pages.get(self.path, "").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        site.host = f"127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield site
        http.shutdown()
        thread.join()


FRAME = """<body><iframe src="/page" width="{width}"></iframe>
<script>onmessage = event => document.body.textContent = event.data;</script></body>"""


def browse(server: SimpleNamespace, content: str, profile: Path, width: int) -> dict[str, Any]:
    """Opens the page in a frame of that width: its images' widths, and how wide it is."""
    script = """<script>addEventListener("load", () => {
      const widths = [...document.images].map(image => image.naturalWidth);
      const wide = document.documentElement.scrollWidth;
      parent.postMessage("seen:" + JSON.stringify({widths, wide}) + ":end", "*");
    });</script>"""
    server.content = content.replace("</body>", script + "</body>")
    server.frame = FRAME.format(width=width)
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,800")
    flags += (f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom")
    flags += (f"--host-resolver-rules=MAP * {server.host}",)
    command = [CHROMIUM, *flags, f"http://{server.host}/"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(unescape(re.search("seen:(.*):end", dom).group(1)))


@pytest.mark.full
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here; apt-get install chromium")
def test_a_browser_shows_all_and_fetches_nothing(
    page: str, server: SimpleNamespace, tmp_path: Path
) -> None:
    seen = browse(server, page, tmp_path / "profile", width=1000)
    assert len(seen["widths"]) == page.count("<img") == 46
    assert min(seen["widths"]) == SIDE
    assert seen["wide"] <= 1000  # nothing to scroll sideways for
    assert browse(server, page, tmp_path / "profile", width=390)["wide"] <= 390  # a phone
    assert server.requests == []
    other = page.replace("</body>", '<img src="http://a.example/x.png"><img src="y.png"></body>')
    assert browse(server, other, tmp_path / "profile", width=1000)["widths"][-2:] == [0, 0]
    assert sorted(server.requests) == [f"{server.host}/y.png", "a.example/x.png"]
