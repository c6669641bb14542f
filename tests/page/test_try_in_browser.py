"""The section "Try" in a real Chromium, with the model that `make run` trains on the sample, or with a tiny one."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagecap.config import ModelSettings
from imagecap.model.builder import build
from tests.conftest import ROOT
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
from tests.tiny import picture

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium_path()
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def server(folder: Path, tiny_bases: ModelSettings) -> Iterator[PageServer]:
    """A page with two models: that of the sample where it has been trained, and a tiny random one."""
    tiny = build(tiny_bases)
    tiny.info.update(prompt="Describe this image.", prompts={"en": "Describe this image."})
    tiny.save(folder / "tiny")
    trained = ROOT / "model"
    models = [trained] if (trained / "model.safetensors").is_file() else []
    flags = [flag for model in (*models, folder / "tiny") for flag in ("--model_path", str(model))]
    with page_server(folder, *flags, "--max_length", "24", "--min_length", "4") as running:
        yield running


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two pictures, one of them with a name that is hostile to a page that does not escape it."""
    sample = sorted((ROOT / "data" / "images").glob("test-*.jpg"))[:2]
    names = ["scene.png", "<img src=x onerror=alert(1)>‮gpj.png"]
    for place, name in enumerate(names):
        if len(sample) == 2:
            (tmp_path / name).write_bytes(sample[place].read_bytes())
        else:
            picture(place, (224, 160)).save(tmp_path / name)
    return [str(tmp_path / name) for name in names]


def answered(page: Any, count: int) -> None:
    """Wait until so many answers have words that can be pointed at."""
    wait_until(page, f"document.querySelectorAll('.answer:has(.word)').length === {count}")


def test_captions_words_heat_maps_and_files(server: PageServer, browser: Any, files: list[str]) -> None:
    """All of it once: stream, point at words, beams, copy, save, code, remove; by keyboard where a keyboard can."""
    with opened(browser, server.url) as page:
        page.locator("h1").wait_for()
        models = page.locator("fieldset input[type=checkbox]").count() or 1
        page.set_input_files("#try-files", files)
        answered(page, 2 * models)
        assert page.locator(".result").count() == 2
        assert page.locator(".result .name").first.inner_text() == Path(files[1]).name
        word = page.locator(".word").first
        assert "sure" in word.get_attribute("aria-label")
        word.focus()
        heat = page.locator("canvas.heat").first
        assert heat.is_visible()
        brightness = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, 480, 480).data).size"
        assert heat.evaluate(brightness) > 20
        if page.locator(".answer").first.locator(".word").count() > 1:  # the tiny model may say a single one
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className").startswith("word")
        page.get_by_label("Compare words").check()
        assert serious_problems(page) == []

        page.get_by_role("button", name="Copy").first.click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator(".caption-text").first.inner_text()

        page.get_by_role("button", name="Beams").click()
        page.get_by_role("button", name="Caption again").click()
        wait_until(page, f"document.querySelectorAll('.candidate').length === {2 * models * 3}")
        answered(page, 2 * models)
        assert page.locator(".candidate .numbers").first.evaluate("score => score.getClientRects().length") == 1
        assert serious_problems(page) == []
        page.locator(".candidate").nth(1).click()
        wait_until(page, "document.querySelectorAll('.candidate')[1].getAttribute('aria-pressed') === 'true'")

        with page.expect_download() as download:
            page.get_by_role("button", name="JSON").click()
        rows = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        assert len(rows) == 2 * models
        assert {row["image"] for row in rows} == {Path(file).name for file in files}
        assert all(len(row["others"]) == 2 and row["settings"]["num_beams"] == 5 for row in rows)
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        lines = Path(download.value.path()).read_bytes().decode("utf-8-sig").splitlines()
        assert lines[0] == '"image","model","rank","caption","score"'
        assert len(lines) == 1 + 2 * models * 3

        page.get_by_text("The same in code").click()
        assert "num_beams=5" in page.locator("pre").first.inner_text()
        code, form, results = (page.locator(name).bounding_box() for name in (".code", "form", ".try-main"))
        assert code["width"] == form["width"]  # long lines scroll within their own box
        assert code["x"] + code["width"] < results["x"]
        assert serious_problems(page) == []
        page.get_by_role("button", name="Remove all").click()
        assert page.locator(".result").count() == 0


def test_paste_drop_and_camera(server: PageServer, browser: Any, files: list[str]) -> None:
    content = base64.b64encode(Path(files[0]).read_bytes()).decode()
    with opened(browser, server.url) as page:
        give = """([kind, content]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
            const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
              : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }"""
        page.locator("h1").wait_for()
        for kind in ("paste", "drop"):
            page.evaluate(give, [kind, content])
        page.get_by_role("button", name="Use the camera").click()
        wait_until(page, "document.querySelector('video')?.videoWidth > 0")
        page.get_by_role("button", name="Take it").click()
        wait_until(page, "document.querySelectorAll('.result').length === 3")
        names = page.locator(".result .name").all_inner_texts()
        assert names == ["camera 1.jpg", "drop.png", "paste.png"]


def test_what_fails_has_a_sentence(server: PageServer, browser: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    with opened(browser, server.url, refusals=True) as page:
        page.set_input_files("#try-files", [str(broken), str(text)])
        page.locator(".problem").first.wait_for()
        assert "truncated or damaged" in page.locator(".problem").first.inner_text()
        assert "notes.txt is not a picture file" in page.locator(".toast").first.inner_text()
        page.get_by_role("button", name="Beams").click()
        page.get_by_label("Number of beams").fill("5")
        assert serious_problems(page) == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("theme", THEMES)
def test_looks(server: PageServer, browser: Any, files: list[str], width: int, theme: str) -> None:
    """Nothing is wider than the window, and axe-core finds nothing serious, in both languages and colours."""
    language = "en" if theme == "light" else "zh"
    with opened(browser, server.url, width=width, theme=theme, language=language) as page:
        page.locator("h1").wait_for()
        assert page.locator("html").get_attribute("lang") == ("en" if language == "en" else "zh-CN")
        screenshot(page, f"try-empty-{width}-{theme}-{language}")
        page.set_input_files("#try-files", files[:1])
        page.locator(".word").first.wait_for()
        page.locator(".word").last.focus()
        assert overflow(page) == 0
        assert serious_problems(page) == []
        small = page.evaluate(
            """() => [...document.querySelectorAll("button:not(.word), select, input:not([type=checkbox])")]
            .filter((each) => each.checkVisibility() && !each.classList.contains("hidden-text"))
            .map((each) => [each.outerHTML.slice(0, 80), each.getBoundingClientRect().height])
            .filter(([, height]) => height < 43.5)"""
        )
        assert small == []
        screenshot(page, f"try-{width}-{theme}-{language}")
