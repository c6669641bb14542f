"""95 % confidence intervals."""

import random

import pytest

from imagecap.eval.bootstrap import score_intervals, share_interval
from imagecap.metrics import score

PAIRS = [
    ("A dog runs over the grass.", "The brown dog is running on grass."),
    ("Two boats lie on the beach.", "A pair of boats on the sand"),
    ("A child eats an apple.", "A small child is eating an apple"),
    ("A train stands in the station.", "The train waits at a platform"),
]


def test_intervals_shrink_with_more_pictures_and_are_repeatable() -> None:
    def width(copies: int) -> float:
        rng = random.Random(1)
        references = {str(i): [rng.choice(PAIRS)[1]] for i in range(copies)}
        found = score(references, {image: rng.choice(PAIRS)[0] for image in references})
        ends = score_intervals(found, 300)
        assert ends == score_intervals(found, 300)
        low, high = ends["ROUGE_L"]
        assert low < found.overall["ROUGE_L"] < high
        return high - low

    assert width(200) < 0.6 * width(30)


def test_interval_of_a_share() -> None:
    low, high = share_interval(0, 20)
    assert low == 0
    assert high == pytest.approx(0.161, abs=0.001)
    assert share_interval(20, 20) == pytest.approx((1 - high, 1.0))
