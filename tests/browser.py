"""Chromium for the tests of pages, driven by selenium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDED = {"chromium": BROWSER, "chromium-driver": DRIVER, "selenium": find_spec("selenium")}


def missing(**needed: object) -> list[str]:
    """Names of what a browser needs, and of what else is `needed`, that is not there."""
    return [name for name, there in (NEEDED | needed).items() if not there]


@contextmanager
def opened(downloads: Path) -> Iterator[Any]:
    """Chromium's driver; it saves downloads in that folder and reaches no other host."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = BROWSER
    flags = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking")
    for flag in (*flags, "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
        options.add_argument(f"--{flag}")
    folder = {"download.default_directory": str(downloads)}
    options.add_experimental_option("prefs", folder)
    driver = Chrome(options, Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
