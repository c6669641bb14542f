"""Languages: one declaration each, and captions recognised by their script."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from imagecap.config import DataSettings
from imagecap.data.captions_file import read_rows
from imagecap.languages import LANGUAGES, Language, LanguageSpec, language_named, language_of, languages_of
from imagecap.metrics import TOKENIZERS, display_name, score


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("A dog runs.", "en"),
        ("一只狗在跑。", "zh"),
        ("狗", "zh"),
        ("穿着NIKE T-shirt的男孩", "zh"),
        ('a sign that says "停车"', "en"),
        ("一辆BMW", "zh"),
        ("un café très bon", "en"),
        ("собака бежит", "en"),
        ("123 456", "en"),
        ("123。", "zh"),
        ("", "en"),
        ("𠀀𠀁", "zh"),
        ("時々", "zh"),
    ],
)
def test_language_of(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("captions", "languages"),
    [
        ([("1", "一只狗。"), ("1", "NIKE")], "zh zh"),
        ([("1", "一只狗。"), ("1", "")], "zh zh"),
        ([("1", "一只狗。"), ("1", "A dog."), ("1", "Two dogs")], "zh en en"),
        (
            [("1", "一只狗。"), ("1", "A dog."), ("2", "一只猫。"), ("2", "A cat."), ("3", "船"), ("3", "Two boats")],
            "zh en " * 3,
        ),
        ([("1", "一只狗。"), ("2", "NIKE")], "zh en"),
        ([("1", "a dog"), ("1", "NIKE"), ("1", "")], "en en en"),
    ],
)
def test_all_captions_of_a_picture_count(captions: list[tuple[str, str]], languages: str) -> None:
    assert languages_of([(picture, text, None) for picture, text in captions]) == languages.split()


@pytest.mark.parametrize("name", ["zh", "ZH ", "zh-CN", "zh_Hant", "Chinese", "中文"])
def test_a_language_is_named_by_code_or_name(name: str) -> None:
    assert language_named(name) == "zh"
    assert language_named("French") is None


def test_every_language_is_declared_once_and_whole() -> None:
    assert tuple(LANGUAGES) == get_args(Language)
    for code, spec in LANGUAGES.items():
        assert spec.code == code
        assert spec.tokenizer in TOKENIZERS
        assert DataSettings(language=spec.code).prompt_of(spec.code) == spec.prompt


def test_another_language_needs_one_declaration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is declared is enough for reading data and for scores."""
    russian = LanguageSpec(
        code="ru",  # type: ignore[arg-type]
        name="Russian",
        html_tag="ru",
        prompt="Опиши картинку.",
        tokenizer="ptb",
        script=re.compile(r"[\u0400-\u04ff]+"),
    )
    monkeypatch.setitem(LANGUAGES, "ru", russian)
    assert language_of("собака бежит") == language_named("russian") == "ru"
    assert language_of("собака NIKE") == "en"
    assert language_of("狗") == "zh"
    rows = [{"image": "a.png", "caption": text} for text in ("собака бежит", "a dog")]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    read, problems = read_rows(tmp_path / "captions.json", DataSettings())
    assert not problems
    assert [(row.caption.language, row.caption.prompt) for row in read] == [
        ("ru", russian.prompt),
        ("en", LANGUAGES["en"].prompt),
    ]
    assert score({"a": ["собака бежит"]}, {"a": "собака бежит"}, "ru").overall["Bleu_1"] == pytest.approx(1)
    assert display_name("CIDEr", "ru") == "CIDEr[ru-ptb]"
