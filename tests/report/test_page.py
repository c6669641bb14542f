"""The report: self-contained, escaped, without metadata, and readable in a real browser where there is one."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagecap.config import DataSettings, Settings
from imagecap.data.formats import FORMATS, Source
from imagecap.data.records import Caption, Problem, Sample
from imagecap.data.samples import as_samples
from imagecap.eval.compare import compare_results
from imagecap.eval.inspection import inspect_data
from imagecap.report.charts import curves, lanes
from imagecap.report.data_page import write_data_page
from imagecap.report.gallery import gallery_png
from imagecap.report.highlights import highlights, rank
from imagecap.report.page import LISTED, write_report
from imagecap.report.wording import WORDINGS, Wording, headlines
from imagecap.report.wording_en import BASELINE_MEANINGS, FIGURE_LABELS, GALLERY_TITLES


def result(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "image": f"{index}.png",
        "caption": f"caption {index}",
        "references": [f"reference {index}"],
        "language": "en",
        "metrics": {"Bleu_4": 0.1, "ROUGE_L": 0.5, "CIDEr": index / 10},
        "tokens": 3,
        "truncated": False,
    } | changes


def evaluation(results: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "metrics": {"Bleu_4": 0.1, "ROUGE_L": 0.5, "CIDEr": 0.8},
        "intervals": {"Bleu_4": [0.05, 0.15], "ROUGE_L": [0.4, 0.6], "CIDEr": [0.7, 0.9]},
        "names": {"Bleu_4": "Bleu_4", "ROUGE_L": "ROUGE_L", "CIDEr": "CIDEr"},
        "floors": {
            "constant": {"metrics": {"CIDEr": 0.2}, "details": {"en": {"caption": "a thing <b>"}}},
            "human": {"metrics": {"CIDEr": 1.0}, "details": {}},
        },
        "behaviour": {"en": {"mean_length": 9.5, "empty_share": 0.01}},
        "slices": [
            {"column": "place", "value": place, "language": "en", "n": 3, "metrics": {"CIDEr": 0.5}, "intervals": {}}
            for place in ("in", "out")
        ],
        "notes": [],
        "data": {
            "images": len(results),
            "references": len(results),
            "languages": {"en": len(results)},
            "tokenizer": {"en": "ptb"},
            "idf": "references of the evaluated pictures",
            "evaluated_digest": "abc",
        },
        "settings": {"generate": Settings().generate.model_dump()},
        "versions": {"imagecap": "1"},
        "results": results,
    } | changes


class Page(HTMLParser):
    """What a page would fetch, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


HISTORY = [{"step": step, "train_loss": 3 / step, "learning_rate": 0.1} for step in range(1, 9)]


def page(tmp_path: Path, content: dict[str, Any], pictures: dict[str, Any] | None = None) -> Page:
    write_report(content, pictures or {}, tmp_path / "report.html", history=HISTORY)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_nothing_comes_from_outside_and_pictures_carry_no_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret description"
    Image.new("RGB", (900, 600), "teal").save(tmp_path / "0.jpg", exif=exif, comment=b"secret comment")
    pictures = {f"{index}.png": tmp_path / "0.jpg" for index in range(30)}
    found = page(tmp_path, evaluation([result(index) for index in range(30)]), pictures)
    assert len(found.fetched) == 24 + 30
    assert all(address.startswith("data:image/jpeg;base64,") for address in found.fetched)
    for address in set(found.fetched):
        content = base64.b64decode(address.partition(",")[2])
        assert b"secret" not in content
        with Image.open(io.BytesIO(content)) as thumbnail:
            assert max(thumbnail.size) in (360, 120)
            assert not thumbnail.getexif()
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", source)
    assert "default-src 'none'" in source


def test_captions_are_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    names = {"image": evil, "caption": evil, "references": [evil], "columns": {evil: evil}}
    found = page(tmp_path, evaluation([result(index, **names) for index in range(6)]))
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert evil in found.text


def test_best_typical_and_worst_are_told_apart() -> None:
    results = [result(index) for index in range(30)]
    chosen = highlights(rank(results), 4)
    assert chosen["best"] == [29, 28, 27, 26]
    assert chosen["worst"] == [0, 1, 2, 3]
    assert set(chosen["typical"]) == {13, 14, 15, 16}
    assert highlights(rank(results[:2]), 4) == {"all": [1, 0]}


def test_false_captions_rank_below_true_ones() -> None:
    assert rank([result(9, true=False), result(1, true=True)]).order.tolist() == [1, 0]


def test_long_lists_are_thinned_evenly(tmp_path: Path) -> None:
    found = page(tmp_path, evaluation([result(index) for index in range(LISTED + 50)]))
    assert f"{LISTED} of {LISTED + 50}" in found.text


def test_every_text_is_there_in_chinese(tmp_path: Path) -> None:
    """Whatever the template shows by `t`, but for what comes out of the data."""
    template = resources.files("imagecap.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    texts = re.findall(r"""t\((?:'([^']+)'|"([^"]+)")\)|both\("([^"]+)\"""", template)
    assert len(texts) > 40
    titles = [text for pair in GALLERY_TITLES.values() for text in pair if text]
    figures = [label for label, _ in FIGURE_LABELS.values()]
    shown = [*("".join(parts) for parts in texts), *titles, *figures, *BASELINE_MEANINGS, *BASELINE_MEANINGS.values()]
    assert [text for text in shown if text not in WORDINGS["zh"].texts] == []


@pytest.mark.parametrize(
    ("languages", "ui"),
    [({"zh": 30}, "zh"), ({"en": 30}, "en"), ({"en": 30, "zh": 30}, "en"), ({"de": 30}, "en")],
)
def test_the_page_opens_in_the_language_of_the_data(tmp_path: Path, languages: dict[str, int], ui: str) -> None:
    content = evaluation([result(index) for index in range(30)])
    content["data"] |= {"languages": languages, "tokenizer": dict.fromkeys(languages, "char")}
    content |= {"floors": {}, "slices": [], "behaviour": {}}
    metrics = content["metrics"]
    if len(languages) > 1:
        content |= {
            "metrics": {f"{each}/{name}": value for each in languages for name, value in metrics.items()},
            "intervals": {},
        }
    page(tmp_path, content)
    assert f'data-ui="{ui}"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_a_wording_lacks_is_said_in_english() -> None:
    german = Wording("Deutsch", {"Best": "Beste"}, {"language": "{language} – {headline}"})
    assert [german.text(text) for text in ("Best", "Worst")] == ["Beste", "Worst"]
    content = evaluation([result(index) for index in range(30)], floors={})
    assert headlines(content, german) == headlines(content)
    assert headlines(content)[0].startswith("CIDEr 0.800 (95% between 0.700 and 0.900) on 30 pictures")


def test_made_up_captions_have_a_gallery_and_say_what(tmp_path: Path) -> None:
    results = [result(index, hallucinated=["cat"] if index in (5, 20) else []) for index in range(30)]
    assert highlights(rank(results), 4)["made_up"] == [5, 20]
    found = page(tmp_path, evaluation(results))
    assert "Made up" in found.text
    assert "in no reference" in found.text
    assert "made_up" not in highlights(rank([result(index) for index in range(30)]), 4)


def test_the_comparison_with_the_model_before(tmp_path: Path) -> None:
    before, after = (
        {
            "results": [
                result(index, caption=caption, references=[f"a dog runs after {word}", f"the dog and {word}"])
                for index, word in enumerate(["cats", "balls", "cars"] * 10)
            ],
            "data": {"tokenizer": {"en": "ptb"}},
        }
        for caption in ("a <b>cat</b>", "a dog runs after cats")
    )
    content = evaluation(after["results"])
    write_report(content, {}, tmp_path / "report.html", comparison=compare_results(before, after, resamples=50))
    found = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Against the model before" in found.text
    assert "a <b>cat</b>" in found.text, "old captions are escaped too"
    assert found.text.count("a <b>cat</b>") == 8, "the eight that changed most"


def test_few_pictures_without_references(tmp_path: Path) -> None:
    unscored = {"language": None, "references": [], "metrics": None}
    data = {"images": 2, "references": 0, "languages": {}, "tokenizer": {}, "idf": "", "evaluated_digest": "x"}
    content = evaluation(
        [result(index, **unscored) for index in range(2)],
        metrics={},
        intervals={},
        floors={},
        behaviour={},
        slices=[],
        data=data,
        notes=["No picture has references, so there are no metrics."],
    )
    found = page(tmp_path, content)
    assert "caption 1" in found.text
    assert "2 pictures captioned" in found.text


def test_lanes_place_the_model_between_its_marks() -> None:
    lane = next(each for each in lanes(evaluation([result(0)])) if each["key"] == "CIDEr")
    marks = {mark["kind"]: mark["x"] for mark in lane["marks"]}
    assert 0 < marks["constant"] < lane["low"] < lane["x"] < lane["high"] < marks["human"] <= 100


def test_curves_leave_out_what_is_not_a_number() -> None:
    history = [*HISTORY, {"step": 9, "train_loss": float("nan"), "note": "x", "val_loss": 1.0}]
    found = curves(history)
    assert [[line["name"] for line in each["lines"]] for each in found] == [["train loss"], ["learning rate"]]
    assert found[0]["lines"][0]["path"].count("L") == 7
    assert curves([]) == []


def test_gallery(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (40, 90), colour) for colour in ("red", "green", "blue")]
    long = "word " * 100
    gallery_png(pictures, ["一只红色的猫坐在草地上。" * 5, long, ""], tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 500
        assert sheet.getpixel((22 + 130, 22 + 130)) == (255, 0, 0)
        # there is text under the first two, and none at the place of the missing fourth
        assert len(sheet.crop((22, 290, 282, 380)).getcolors(10_000) or []) > 1
        assert len(sheet.crop((304, 400, 564, 700)).getcolors(10_000) or []) == 1


def test_gallery_without_a_chinese_font_prints_no_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecap.report.gallery.chinese_font", lambda: None)
    picture = Image.new("RGB", (40, 40), "red")
    for name, caption in (("one", "一只猫"), ("two", "两只黑色的狗在跑")):
        gallery_png([picture], [caption], tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def in_browser(folder: Path, file: str, width: int, script: str) -> list[str]:
    """What `script`, an expression of a list, finds in a page of this width; `d` is the document, `r` its root."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    # an iframe has the width that it is given, while a headless window has a least width of its own
    (folder / "frame.html").write_text(
        f"<iframe id=f src={file} style='width:{width}px;height:2000px;border:0'></iframe>"
        "<script>onload=()=>{const d=f.contentDocument,r=d.documentElement;"
        f"document.title=({script}).join('|')}}</script>"
    )
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
            *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--dump-dom"),
            (folder / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stdout[-500:]
    return title[1].split("|")


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_is_wider_than_the_window(tmp_path: Path, width: int) -> None:
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "0.png")
    pictures = {f"{index}.png": tmp_path / "0.png" for index in range(30)}
    long = "an uncommonlylongwordwithoutanyblank" * 3
    page(tmp_path, evaluation([result(index, caption=long) for index in range(30)]), pictures)
    scroll_width, rows, count, before, after, placeholder, option = in_browser(
        tmp_path,
        "report.html",
        width,
        "(()=>{const seen=d.getElementById('count').textContent,chinese=d.querySelector('h2 .ui-zh');"
        "const before=getComputedStyle(chinese).display;"
        "d.getElementById('ui').click();"
        "return [r.scrollWidth,d.querySelectorAll('.row').length,seen,before,"
        "getComputedStyle(chinese).display,d.getElementById('find').placeholder,"
        "d.getElementById('sort').options[0].label]})()",
    )
    assert int(scroll_width) <= width
    assert rows == "30"
    assert count == "30 / 30"
    assert (before, after) == ("none", "inline"), "the button shows the page in Chinese"
    assert placeholder == WORDINGS["zh"].texts["Find in captions, references, names"]
    assert option == WORDINGS["zh"].texts["best first"], "what a list shows is its label"


def test_in_a_browser_the_page_of_a_data_set_is_not_wider_than_the_window(tmp_path: Path) -> None:
    name = "a_very_long_name_of_a_picture_without_any_blank" * 3
    Image.new("RGB", (900, 200), "teal").save(tmp_path / "0.png")
    captions = (Caption("an uncommonlylongwordwithoutanyblank" * 3, "en", "p"), Caption("一只猫。" * 20, "zh", "p"))
    samples = [Sample(name, tmp_path / "0.png", "0" * 64, "test", captions)]
    source = Source(FORMATS["captions"], tmp_path, [tmp_path / f"{name}.json"])
    found = inspect_data({"": source}, as_samples(samples), [Problem(1, name, "is odd", "warning")], DataSettings())
    write_data_page(found, samples, name, tmp_path / "page.html")
    scroll_width, pictures = in_browser(tmp_path, "page.html", 390, "[r.scrollWidth,d.images.length]")
    assert int(scroll_width) <= 390
    assert pictures == "1"
