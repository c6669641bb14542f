"""The metric table in the terminal, and the headlines."""

from typing import Any

from imagecap.report.tables import display_width, format_evaluation
from imagecap.report.wording import headlines


def content(**changes: Any) -> dict[str, Any]:
    return {
        "metrics": {"CIDEr": 0.5, "true_share": 0.9},
        "intervals": {"CIDEr": [0.4, 0.6], "true_share": [0.85, 0.94]},
        "names": {"CIDEr": "CIDEr[zh-char]", "true_share": "true_share"},
        "floors": {
            "human": {"metrics": {"CIDEr": 0.75}},
            "constant": {"metrics": {"CIDEr": 0.1, "true_share": 0.0}},
        },
        "data": {"images": 12, "languages": {"zh": 12}},
    } | changes


def test_columns_line_up() -> None:
    lines = format_evaluation(content()).splitlines()
    assert lines[0].split() == ["metric", "model", "95%", "constant", "human"]
    assert lines[2].split() == ["CIDEr[zh-char]", "0.500", "0.400–0.600", "0.100", "0.750"]
    assert lines[3].split() == ["true", "90.0%", "85–94%", "0.0%", "–"]
    assert len({display_width(line) for line in lines}) == 1


def test_chinese_takes_two_columns() -> None:
    assert display_width("图ab") == 4
    wide = format_evaluation(content(names={"CIDEr": "分数", "true_share": "x"})).splitlines()
    assert len({display_width(line) for line in wide}) == 1


def test_without_metrics_there_is_a_sentence() -> None:
    assert "no references" in format_evaluation(content(metrics={}))
    assert headlines(content(metrics={})) == ["12 pictures captioned; without references there is nothing to score."]


def test_headline_of_scenes() -> None:
    assert headlines(content()) == ["90% of the captions of 12 pictures are true and complete."]


def test_the_headline_says_when_a_model_is_no_better_than_a_floor() -> None:
    def sentence(value: float, floor: float) -> str:
        changed = content(metrics={"CIDEr": value}, intervals={"CIDEr": [value - 0.1, value + 0.1]})
        changed["floors"]["constant"]["metrics"]["CIDEr"] = floor
        return headlines(changed)[0]

    assert "above the best floor: 0.100 by one caption for every picture" in sentence(0.5, 0.1)
    assert "not surely above the best floor" in sentence(0.5, 0.45)
    assert "no better than the best floor" in sentence(0.5, 0.5)


def test_languages_are_told_apart() -> None:
    found = content(
        metrics={"en/CIDEr": 1.0, "zh/CIDEr": 0.5},
        intervals={},
        names={"en/CIDEr": "CIDEr", "zh/CIDEr": "CIDEr[zh-char]"},
        floors={},
        data={"images": 2, "languages": {"en": 2, "zh": 2}},
    )
    assert [line.split()[0] for line in format_evaluation(found).splitlines()[2:]] == ["CIDEr", "CIDEr[zh-char]"]
    assert [sentence.split(":")[0] for sentence in headlines(found)] == ["English", "Chinese"]
