"""The page in a real Chromium: its server as users start it, and a browser that reports every error.

A test fails if the page logs an error, throws one, or asks another host for anything.
"""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import ROOT

WIDE, NARROW = 1280, 390
THEMES = ("light", "dark")
_AXE = Path(__file__).parent / "axe" / "axe.min.js.gz"


def chromium_path() -> str:
    """The installed Chromium; the test is skipped without one, or without playwright."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    return found


class PageServer:
    """`run.py page` in a process of its own, which can be killed and started again at the same port.

    Args:
        folder: its working directory. The `run.py` there is run, else that of this repository.
        arguments: further ones.
        environment: its variables; None: those of this process.
    """

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.arguments, self.port = folder, arguments, 0
        self.root = folder if (folder / "run.py").is_file() else ROOT
        self.environment = {**(os.environ if environment is None else environment), "PYTHONPATH": str(self.root)}
        self.start()

    def start(self, seconds: float = 300) -> None:
        """Start it, and wait until it has printed its address."""
        log = self.folder / "page-server.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(self.root / "run.py"), "page", "--port", str(self.port), *self.arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + seconds
        while (found := re.search(r"http://\S+", self.output)) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"the page's server did not start: {self.output}")
            time.sleep(0.1)
        self.url = found[0]
        self.port = urlsplit(self.url).port or 0

    @property
    def output(self) -> str:
        """What it has printed."""
        return (self.folder / "page-server.log").read_text(encoding="utf-8")

    def kill(self) -> None:
        """SIGKILL: nothing is closed."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ctrl-C; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode


@contextmanager
def page_server(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[PageServer]:
    """Run `run.py page` at a free port; see `PageServer`."""
    server = PageServer(folder, *arguments, environment=environment)
    try:
        yield server
    finally:
        server.end()


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium of playwright."""
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *fake])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, url: str, *, width: int = WIDE, theme: str = "light", language: str = "en", refusals: bool = False
) -> Iterator[Any]:
    """A page of the browser; on leaving it is an error if a script failed or another host was asked.

    Args:
        browser: from `chromium`.
        url: address of the page.
        width: of the window, in pixels.
        theme: preferred colours, "light" or "dark".
        language: "en" or "zh".
        refusals: whether the test provokes answers with an error status, which the browser's console lists.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=theme,
        locale="zh-CN" if language == "zh" else "en-GB",
        has_touch=width < 600,
        permissions=["clipboard-read", "clipboard-write", "camera"],
    )
    context.set_default_timeout(60_000)
    page, errors, hosts = context.new_page(), [], set()

    def note(message: Any) -> None:
        refused = "Failed to load resource" in message.text
        if message.type == "error" and not (refused and refusals):
            errors.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert not errors, errors
    assert hosts - {""} == {urlsplit(url).netloc}  # "" has blob: and data:


def wait_until(page: Any, condition: str, value: Any = None, seconds: float = 60) -> None:
    """Wait until a JavaScript expression, or a function of `value`, is true.

    The content policy of the page forbids `page.wait_for_function`.
    """
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition, value):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def serious_problems(page: Any) -> list[str]:
    """What axe-core finds on the page as it is now that is serious or critical."""
    page.evaluate(gzip.decompress(_AXE.read_bytes()).decode("utf-8"))
    found = page.evaluate("() => axe.run(document)")
    return [
        f"{each['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def screenshot(page: Any, name: str) -> None:
    """Save a screenshot to `IMAGECAP_SCREENSHOTS`, if that is set: for eyes, not for comparison."""
    folder = os.environ.get("IMAGECAP_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
