"""From wrong captions to the next model in Chromium: correct 50, kill the server, go on, train, and compare."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import (
    NARROW,
    WIDE,
    PageServer,
    chromium,
    opened,
    overflow,
    page_server,
    screenshot,
    serious_problems,
)
from tests.page.correct.by_keyboard import correct_with_a_kill
from tests.pipelines.checkout import Checkout, new_checkout

pytestmark = pytest.mark.long

CAPTIONS = 50
TRAINING = 1200  # seconds; others may use the machine too
STEPS = ".correct-steps-list"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout with a champion, whose captions are corrected next."""
    checkout = new_checkout(tmp_path / "checkout")
    checkout.variables |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    checkout.dvc("repro")
    checkout.command("register")
    checkout.commit()
    return checkout


def train(page: Any, server: PageServer) -> None:
    """Press the button and wait for the new version; training goes on while the server is killed."""
    page.get_by_role("button", name="Write and train").click()
    page.wait_for_selector(f"{STEPS} li:nth-child(2) .badge.warm")  # the flow runs
    server.kill()
    server.start()
    page.wait_for_selector(".toast.offline", state="detached")  # as soon as it answers
    page.wait_for_selector(f"{STEPS} li:nth-child(3) .badge.good, {STEPS} .badge.bad", timeout=TRAINING * 1000)
    assert page.locator(f"{STEPS} .badge.good").count() == 3, page.inner_text(".correct-output")


def test_fifty_corrections_become_the_next_model(checkout: Checkout) -> None:
    rows = checkout.json("data/captions.json")
    data = (checkout.folder / "data.dvc").read_text(encoding="utf-8")
    served = page_server(checkout.folder, "--data", "data", environment=checkout.environment())
    with served as server, chromium() as browser:
        with opened(browser, f"{server.url}#correct/order=file&state=open", refusals=True) as page:
            correct_with_a_kill(page, server, CAPTIONS, " indeed", "aaxa")
            train(page, server)
            assert "imagecap version 2" in page.inner_text(".section-correct")
            assert "CIDEr" in page.locator(".section-correct tbody th[scope=row]").all_inner_texts()
            assert serious_problems(page) == []
            for width in (NARROW, WIDE):
                page.set_viewport_size({"width": width, "height": 900})
                assert overflow(page) <= 0
                screenshot(page, f"correct-trained-{width}")
        with opened(browser, f"{server.url}#versions/compare/1/2") as page:
            page.wait_for_selector(".versions-heads")
            assert "Version 1 → Version 2" in page.inner_text("h1")
            assert page.locator("tr", has_text="CIDEr").count() > 0
    assert checkout.json("data/captions.json") == [
        {**row, "caption": row["caption"] + " indeed" * (place < CAPTIONS and place % 5 == 0)}
        for place, row in enumerate(rows)
        if place >= CAPTIONS or place % 5 != 3
    ]
    assert (checkout.folder / "data.dvc").read_text(encoding="utf-8") != data
    first, second = (
        json.loads(checkout.command("lineage", "--json", f"models:/imagecap/{number}")) for number in (1, 2)
    )
    assert first["data"] != second["data"]
