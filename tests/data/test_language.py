"""The language of a caption by its script."""

import pytest

from imagecap.data.language import language_of


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
