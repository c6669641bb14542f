"""Correcting captions in Chromium, with keys; the server is killed, and two people work at once."""

from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import (
    NARROW,
    THEMES,
    WIDE,
    chromium,
    opened,
    overflow,
    page_server,
    screenshot,
    serious_problems,
    wait_until,
)
from tests.page.correct.by_keyboard import correct_with_a_kill, wait_for_row
from tests.page.correct.samples_to_correct import make_folder, open_queue

pytestmark = pytest.mark.long

CAPTIONS = 50
HOSTILE = "<img src=x onerror=alert(1)> \u202e<b>left</b>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"image": f"{number}.png", "caption": f"Caption {number}."} for number in range(CAPTIONS)]
    return make_folder(tmp_path / "data", [*rows, {"image": "<b>.png", "caption": HOSTILE}])


def items(folder: Path) -> list[dict[str, Any]]:
    queue = open_queue(folder)
    try:
        return [queue.item(row) for row in range(len(queue.columns))]
    finally:
        queue.close()


def test_fifty_captions_with_a_kill_between_them(folder: Path, tmp_path: Path) -> None:
    with page_server(tmp_path, "--data", str(folder)) as server, chromium() as browser:
        with opened(browser, f"{server.url}#correct/order=file&state=open", refusals=True) as page:
            correct_with_a_kill(page, server, CAPTIONS, " More.", "asxa")
            page.keyboard.press("z")
            wait_for_row(page, CAPTIONS - 1)
        server.end()
        assert server.process.returncode == 130, server.output
    expected = {0: "edited", 1: "accepted", 2: "skipped", 3: "unusable", 4: "accepted"}
    found = items(folder)
    assert [item["state"] for item in found] == [expected[row % 5] for row in range(CAPTIONS - 1)] + ["open"] * 2
    assert [item["caption"] for item in found[:6:5]] == ["Caption 0. More.", "Caption 5. More."]
    assert found[CAPTIONS]["caption"] == HOSTILE


def test_two_people_do_not_overwrite_each_other(folder: Path, tmp_path: Path) -> None:
    with page_server(tmp_path, "--data", str(folder)) as server, chromium() as browser:
        address = f"{server.url}#correct/order=file"
        with opened(browser, address, refusals=True) as ann, opened(browser, address, refusals=True) as ben:
            for page in (ann, ben):
                wait_for_row(page, 0)
            ann.fill("#correct-caption", "Ann's text.")
            ann.keyboard.press("Enter")
            wait_for_row(ann, 1)
            ben.fill("#correct-caption", "Ben's text.")
            ben.keyboard.press("Enter")
            ben.wait_for_selector("dialog[open]")
            assert "Ann's text." in ben.inner_text("dialog")
            assert "Ben's text." in ben.inner_text("dialog")
            assert not serious_problems(ben)
            ben.click("dialog button.main")
            wait_for_row(ben, 1)
    assert items(folder)[0]["caption"] == "Ben's text."


@pytest.mark.parametrize("theme", THEMES)
def test_page_is_accessible_and_fits(folder: Path, tmp_path: Path, theme: str) -> None:
    language = "zh" if theme == "dark" else "en"
    with page_server(tmp_path, "--data", str(folder)) as server, chromium() as browser:
        for width in (WIDE, NARROW):
            with opened(browser, f"{server.url}#correct", width=width, theme=theme, language=language) as page:
                page.wait_for_selector(".correct-row[aria-current]")
                screenshot(page, f"correct-{theme}-{width}")
                page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
                page.fill("#correct-find", "caption")
                page.keyboard.press("Enter")
                page.wait_for_selector(".correct-preview")
                assert overflow(page) <= 0
                assert not serious_problems(page)
                screenshot(page, f"correct-tools-{theme}-{width}")


def test_filters_are_in_the_address(folder: Path, tmp_path: Path) -> None:
    with page_server(tmp_path, "--data", str(folder)) as server, chromium() as browser:
        with opened(browser, f"{server.url}#correct") as page:
            page.wait_for_selector(".correct-row[aria-current]")
            page.fill("#correct-word", "caption 1")
            page.keyboard.press("Tab")
            wait_until(page, "document.querySelectorAll('.correct-row[data-row]').length === 11")
            address = page.url
        assert "word=caption+1" in address
        with opened(browser, address) as page:
            wait_until(page, "document.querySelectorAll('.correct-row[data-row]').length === 11")
            assert page.input_value("#correct-word") == "caption 1"
