"""Figures of captions apart from their scores."""

import pytest

from imagecap.eval.behaviour import behaviour, is_repetitive


def test_behaviour() -> None:
    found = behaviour(
        ["A dog.", "a dog", "a cat sat sat sat", ""],
        [["a dog runs"], ["a dog"], ["the cat sat"], ["x"]],
        [False, True, False, False],
        ["A dog!", "the cat"],
        "en",
    )
    assert found["mean_length"] == pytest.approx(9 / 4)
    assert found["empty_share"] == 0.25
    assert found["truncated_share"] == 0.25
    assert found["repetitive_share"] == 0.25
    assert found["copied_from_training_share"] == 0.5
    assert found["vocabulary"] == 4
    assert found["distinct_1"] == pytest.approx(4 / 9)
    assert found["distinct_captions_share"] == 0.75
    assert found["reference_mean_length"] == pytest.approx(9 / 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog and a dog", False),
        ("very very big", False),
        ("very very very big", True),
        ("on the red on the red mat", True),
        ("a man a man", False),
    ],
)
def test_repetition(text: str, expected: bool) -> None:
    assert is_repetitive(text.split()) is expected
