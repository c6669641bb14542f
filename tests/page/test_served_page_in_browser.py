"""The page whose captions a running `mlflow models serve` writes, and the page that other machines reach by a token."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.serving import save_models
from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption
from imagecap.model.imagecap_arch import ImageCaptioner
from tests.generate.conftest import sharpened
from tests.page.browser import (
    NARROW,
    THEMES,
    WIDE,
    PageServer,
    chromium,
    chromium_path,
    opened,
    overflow,
    page_server,
    screenshot,
    serious_problems,
    wait_until,
)
from tests.page.correct.by_keyboard import wait_for_row
from tests.page.correct.samples_to_correct import make_folder, open_queue
from tests.pipelines.servers import Server, free_port
from tests.tiny import picture

pytestmark = pytest.mark.long

PROMPT = "Describe this image."


@pytest.fixture
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def model(tiny_model: ImageCaptioner) -> ImageCaptioner:
    chromium_path()
    model = sharpened(tiny_model)
    model.info.update(prompt=PROMPT, prompts={"en": PROMPT})
    return model


@pytest.fixture
def captioning_server(model: ImageCaptioner, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """`mlflow models serve` and its address."""
    model.save(tmp_path / "checkpoint")
    served = save_models(tmp_path, tmp_path / "checkpoint", "float32", False, PROMPT)["ours"]
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(served), "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    started = Server([*command, "-p", str(urlsplit(url).port)], tmp_path, environment, f"{url}/ping")
    yield started, url
    started.kill()


def test_captions_of_a_server(
    browser: Any, captioning_server: tuple[Server, str], model: ImageCaptioner, tmp_path: Path
) -> None:
    """Captions, beams, the file and the code; the page says once what a server does not tell, and when it has ended."""
    running, url = captioning_server
    pictures = [picture(seed, (64, 48)) for seed in range(2)]
    for seed, each in enumerate(pictures):
        each.save(tmp_path / f"{seed}.png")
    greedy = [each.text for each in caption(model, pictures, PROMPT, GenerateSettings(max_length=12))]
    beams = caption(model, pictures[:1], PROMPT, GenerateSettings(max_length=12, num_beams=3, num_captions=3))[0]
    with page_server(tmp_path, "--server", url, "--max_length", "12") as server:
        with opened(browser, server.url, refusals=True) as page:
            page.locator("h1").wait_for()
            assert page.inner_text("body").count("how sure the model was") == 1
            assert url in page.inner_text("footer")
            page.set_input_files("#try-files", [str(tmp_path / f"{seed}.png") for seed in range(2)])
            wait_until(page, "document.querySelectorAll('.caption-text').length === 2")
            assert page.locator(".result .name").all_inner_texts() == ["1.png", "0.png"]
            assert page.locator(".caption-text").all_inner_texts() == greedy[::-1]
            assert page.locator(".word, .legend").count() == 0
            assert page.inner_text("body").count("how sure the model was") == 1
            assert serious_problems(page) == []

            page.get_by_role("button", name="Remove 1.png").click()
            page.get_by_role("button", name="Beams").click()
            page.get_by_label("Number of beams").fill("3")
            page.get_by_role("button", name="Caption again").click()
            wait_until(page, "document.querySelectorAll('.candidate').length === 3")
            shown = page.locator(".candidate > span:first-child").all_inner_texts()
            assert shown == [beams.text, *(each.text for each in beams.others)]
            with page.expect_download() as download:
                page.get_by_role("button", name="JSON").click()
            (row,) = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
            assert (row["caption"], len(row["others"])) == (beams.text, 2)
            page.get_by_text("The same in code").click()
            assert f"{url}/invocations" in page.inner_text("pre")

            running.kill()
            page.get_by_role("button", name="Caption again").click()
            page.locator(".problem").wait_for()
            assert "is `mlflow models serve` running?" in page.inner_text(".problem")
        for theme in THEMES:
            for width in (NARROW, WIDE):
                language = "en" if theme == "light" else "zh"
                with opened(browser, server.url, width=width, theme=theme, language=language) as page:
                    page.locator("h1").wait_for()
                    page.locator(".code summary").click()
                    page.locator("pre").wait_for()
                    assert overflow(page) == 0
                    assert serious_problems(page) == []
                    screenshot(page, f"try-server-{width}-{theme}-{language}")


def test_page_with_a_token(browser: Any, model: ImageCaptioner, tmp_path: Path) -> None:
    """Who lacks the token sees a sentence; who has it captions, copies over clear text, and corrects."""
    model.save(tmp_path / "tiny")
    picture(0, (64, 48)).save(tmp_path / "picture.png")
    folder = make_folder(tmp_path / "data", [{"image": f"{n}.png", "caption": f"Caption {n}."} for n in range(3)])
    flags = ("--host", "0.0.0.0", "--model_path", str(tmp_path / "tiny"), "--data", str(folder), "--max_length", "8")  # noqa: S104
    with page_server(tmp_path, *flags) as server:
        outside = at_own_address(server)
        with opened(browser, outside.partition("?")[0], refusals=True) as page:
            assert page.inner_text("body").startswith("this page needs the token")
        with opened(browser, outside) as page:
            page.locator("h1").wait_for()
            assert "token" not in page.url
            assert not page.evaluate("isSecureContext")
            page.set_input_files("#try-files", [str(tmp_path / "picture.png")])
            page.locator(".word").first.wait_for()
            page.get_by_role("button", name="Copy").first.click()
            page.get_by_text("Copied").wait_for()
            # what was copied is pasted where a caption begins
            page.get_by_text("More settings").click()
            page.get_by_label("Begin the caption with").focus()
            page.keyboard.press("Control+V")
            copied = page.get_by_label("Begin the caption with").input_value()
            assert copied == page.locator(".caption-text").first.inner_text()
            assert serious_problems(page) == []

            page.get_by_role("link", name="Correct").click()
            wait_for_row(page, 0)
            page.keyboard.press("e")
            page.keyboard.type(" From afar.")
            page.keyboard.press("Enter")
            wait_for_row(page, 1)
            page.reload()  # the cookie is enough
            page.wait_for_selector(".correct-row[aria-current]")
        with opened(browser, server.url.replace(urlsplit(server.url).hostname or "", "127.0.0.1")) as page:
            page.locator("h1").wait_for()  # on its own machine, browsers regard clear text as safe
            assert page.evaluate("isSecureContext")
    queue = open_queue(folder)
    try:
        assert queue.item(0)["caption"] == "Caption 0. From afar."
    finally:
        queue.close()


def at_own_address(server: PageServer) -> str:
    """The printed address of the page, with an address of this machine in place of its name, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address that other machines see
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    return server.url.replace(urlsplit(server.url).hostname or "", address)
