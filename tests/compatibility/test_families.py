"""The page of families says what is true; five of them are in the quick tests."""

import re
from pathlib import Path

import pytest
import transformers

from imagecap.config import ModelSettings
from tests.compatibility.examination import YES, examine_captioner, examine_language_model, examine_vision_model
from tests.compatibility.families import VISION_FAMILIES, language_families
from tests.compatibility.table import PAGE, row, samples
from tests.model.stock_captioners import CAPTIONERS

QUICK = ("qwen3", "opt", "cohere", "gemma2", "deepseek_v2")
TEXT = PAGE.read_text(encoding="utf-8")
same_version = pytest.mark.skipif(
    f"transformers {transformers.__version__};" not in TEXT, reason="the page is about another version of transformers"
)


@same_version
def test_the_page_has_every_family() -> None:
    named = {line.split("`")[1] for line in TEXT.splitlines() if line.startswith("| `")}
    assert named == {*VISION_FAMILIES, *language_families(), *CAPTIONERS}


def test_the_number_in_the_readme_is_that_of_the_page() -> None:
    works = re.search(r"^(\d+) of \d+ families", TEXT, re.MULTILINE)
    assert works is not None
    for name in ("README.md", "README.zh-CN.md"):
        text = (PAGE.parents[2] / name).read_text(encoding="utf-8")
        assert re.search(rf"\b{works.group(1)} (families|个系列)", text), name


@same_version
@pytest.mark.parametrize(
    "family",
    [*QUICK, *(pytest.param(each, marks=pytest.mark.long) for each in language_families() if each not in QUICK)],
)
def test_language_models(tiny_bases: ModelSettings, tmp_path: Path, family: str) -> None:
    assert row(examine_language_model(family, tiny_bases, samples(tmp_path), tmp_path)) in TEXT.splitlines()


@same_version
@pytest.mark.parametrize(
    "family",
    ["metaclip_2", *(pytest.param(each, marks=pytest.mark.long) for each in VISION_FAMILIES if each != "metaclip_2")],
)
def test_vision_models(tiny_bases: ModelSettings, tmp_path: Path, family: str) -> None:
    assert row(examine_vision_model(family, tiny_bases, samples(tmp_path), tmp_path)) in TEXT.splitlines()


@same_version
@pytest.mark.parametrize("family", CAPTIONERS)
def test_captioners(tmp_path: Path, family: str) -> None:
    assert row(examine_captioner(family, samples(tmp_path), tmp_path)) in TEXT.splitlines()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt_neo", {"window_size": 16}),
        ("mistral", {"sliding_window": 16}),
        pytest.param("gemma3_text", {"sliding_window": 16}, marks=pytest.mark.long),
    ],
)
def test_a_window_shorter_than_a_caption_is_refused(
    tiny_bases: ModelSettings, tmp_path: Path, family: str, changes: dict[str, int]
) -> None:
    found = examine_language_model(family, tiny_bases, samples(tmp_path), tmp_path, **changes)
    assert not found.faults
    assert found.refused is not None
    assert "16 tokens in its sliding window" in found.refused
    assert YES not in found.results.values()
