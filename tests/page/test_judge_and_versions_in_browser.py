"""Judging 30 pairs by keyboard, and looking at two versions, in a real Chromium."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagecap.page.app import build_app
from imagecap.page.context import PageContext
from imagecap.page.judge.store import JudgmentStore
from imagecap.page.security import new_access
from imagecap.registry.preference import preference_over
from imagecap.registry.store import connect
from tests.page.browser import NARROW, WIDE, chromium, opened, overflow, screenshot, serious_problems, wait_until
from tests.page.checkout_with_versions import make_checkout

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Served:
    """A page that is served from this process, and where its records are."""

    folder: Path
    url: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a checkout with two versions."""
    import socket

    import uvicorn

    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        make_checkout(folder)
        listener = socket.create_server(("127.0.0.1", 0))
        access = new_access("127.0.0.1", listener.getsockname()[1])
        app = build_app(PageContext(state=folder / "outputs" / "page", checkout=folder), access)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield Served(folder, access.url)
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def shots(browser: Any, url: str, name: str, ready: str) -> None:
    """Look at a view, wide in light and narrow in dark colours: no overflow, and nothing serious for a screen reader.

    With `IMAGECAP_SCREENSHOTS`, both widths are seen in both.
    """
    every = "IMAGECAP_SCREENSHOTS" in os.environ
    for width, theme in ((WIDE, "light"), (NARROW, "dark"), *(((WIDE, "dark"), (NARROW, "light")) if every else ())):
        with opened(browser, url.partition("#")[0], width=width, theme=theme) as page:
            page.evaluate("localStorage.setItem('imagecap.judge', 'Ann')")
            page.goto(url)
            page.wait_for_selector(ready)
            page.wait_for_load_state("networkidle")
            assert overflow(page) == 0, (name, width)
            assert serious_problems(page) == [], (name, width)
            narrow = "cells => cells.filter((cell) => cell.scrollHeight > 70).length"
            assert page.locator("td.number").evaluate_all(narrow) == 0, (name, width)  # numbers are in one line
            screenshot(page, f"{name}-{width}-{theme}")


def judge_all(page: Any, right: dict[frozenset[str], str], ties: int) -> None:
    """Press a key for each of 30 pairs: the side that `right` has for the pair, and "both" for the first `ties`."""
    for place in range(30):
        wait_until(
            page, "n => document.querySelector('.judge-where').textContent.includes(`Picture ${n} of`)", place + 1
        )
        left, other = page.locator(".judge-caption .judge-text").all_inner_texts()
        best = right[frozenset({left, other})]
        page.keyboard.press("ArrowUp" if place < ties else "ArrowLeft" if left == best else "ArrowRight")
        if place < 29:
            wait_until(page, "n => document.querySelector('progress').value === n", place + 1)
    page.wait_for_selector(".judge-finished:not([hidden])")


def test_two_judges_judge_thirty_pairs_by_keyboard(browser: Any, served: Served) -> None:
    shots(browser, f"{served.url}#judge", "judge-start", ".section-judge form")
    with opened(browser, f"{served.url}#judge") as page:
        page.fill("#judge-name", "Ann")
        assert page.input_value("#judge-first") == "models:/imagecap/1"
        assert page.input_value("#judge-second") == "models:/imagecap/2"
        page.get_by_role("button", name="Begin").press("Enter")
        page.wait_for_selector(".judge-pair")
        store = JudgmentStore(served.folder / "outputs" / "page" / "judge")
        (name,) = store.names()
        session = store.session(name)
        right = {frozenset({pair.baseline, pair.candidate}): pair.candidate for pair in session.pairs}
        # what the browser is told before the result says nothing about whose a caption is
        told = page.request.get(f"{served.url}api/judge/sessions/{name}?judge=Ann").json()
        assert str(session.seed) not in str(told)
        assert set(told["pairs"][0]) == {"key", "place", "language", "left", "right", "answer"}
        judge_all(page, right, ties=3)
        page.keyboard.press("Backspace")  # the last but one again, with another answer and back
        wait_until(page, "document.querySelector('.judge-where').textContent.includes('Picture 29')")
        kept = store.judgments(name)["Ann"]
        page.keyboard.press("ArrowDown")
        wait_until(page, "document.querySelector('[data-answer=neither]').ariaPressed === 'true'")
        assert sum(each.answer == "neither" for each in store.judgments(name)["Ann"].values()) == 1
        assert len(kept) == 30
    shots(browser, f"{served.url}#judge/{name}", "judge-pair", ".judge-pair")
    with opened(browser, f"{served.url}#judge/{name}", language="zh") as page:
        page.fill("#judge-name", "鲍勃")
        page.keyboard.press("Enter")
        page.wait_for_selector(".judge-pair")
        assert page.inner_text(".judge-question") == "哪一句描述更好？"
        page.evaluate("document.getElementById('language').click()")
        wait_until(page, "document.querySelector('.judge-question')?.textContent.startsWith('Which')")
        judge_all(page, right, ties=0)
        page.keyboard.press("Enter")  # the focus is on the way to the result
        page.wait_for_selector(".judge-verdict")
        assert "Version 2 is preferred to version 1" in page.inner_text(".judge-verdict")
        assert "on 30 of 30 pictures" in page.inner_text(".judge-verdict")
        assert "the one that this browser was shown" in page.inner_text(".section-judge")
        assert str(session.seed) in page.inner_text(".section-judge")
        page.get_by_role("button", name="Log to MLflow").click()
        page.wait_for_selector("text=Logged as run")
    shots(browser, f"{served.url}#judge/{name}/result", "judge-result", ".judge-verdict")
    found = preference_over(connect(), "imagecap", "2", "1")
    assert found is not None
    assert (found["preferred"], found["other"], found["judges"]) == (30, 0, 2)


def test_two_versions_are_looked_at_and_compared(browser: Any, served: Served) -> None:
    shots(browser, f"{served.url}#versions", "versions-list", ".versions-row")
    with opened(browser, f"{served.url}#versions") as page:
        page.get_by_role("button", name="Compare").press("Enter")
        page.wait_for_selector(".versions-heads")
        assert page.url.endswith("#versions/compare/1/2")
        row = page.locator("tr", has_text="CIDEr").first.inner_text()
        assert row.rstrip().endswith("better")
        page.wait_for_selector(".versions-cards img")
        assert page.locator(".versions-card").count() == 24
        page.get_by_role("button", name="Show more").click()
        wait_until(page, "document.querySelectorAll('.versions-card').length > 24")
        page.get_by_role("link", name="Version 2").first.click()
        page.wait_for_selector(".versions-charts svg")
        wait_until(page, "document.querySelectorAll('.versions-charts path').length === 2")
        page.get_by_label("Find in captions, references, names").first.fill("007.jpg")
        wait_until(page, "document.querySelectorAll('.versions-card').length === 1")
        image = page.locator(".versions-card img")
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 224
    # the report is shown, and its script can reach nothing
    with opened(browser, f"{served.url}#versions/2") as page:
        policy = page.request.get(f"{served.url}api/versions/of/2/report").headers["content-security-policy"]
        assert policy.startswith("sandbox allow-scripts")
        assert "default-src 'none'" in policy
        assert "connect-src" not in policy
        page.get_by_text("Report", exact=True).click()
        frame = page.frame_locator(".versions-report iframe")
        frame.get_by_role("heading", name="The report of version 2").wait_for()
        frame.get_by_text("refused").wait_for()
    shots(browser, f"{served.url}#versions/2", "versions-one", ".versions-cards img")
    shots(browser, f"{served.url}#versions/compare/1/2", "versions-compare", ".versions-cards img")
