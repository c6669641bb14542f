"""Preferences of judges: exact intervals, the sign test, pictures judged by several, and agreement."""

import random
from math import comb

import pytest

from imagecap.eval.preference import CHOICES, Choice, agreement_of, exact_interval, joint_preference, preference_of


def tail(successes: int, total: int, share: float) -> float:
    """Probability of at least `successes` out of `total`."""
    return sum(comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(successes, total + 1))


@pytest.mark.parametrize(
    ("successes", "total"), [(0, 1), (1, 1), (3, 10), (15, 30), (21, 30), (30, 30), (0, 30), (60, 100)]
)
def test_interval_is_that_of_clopper_and_pearson(successes: int, total: int) -> None:
    low, high = exact_interval(successes, total)
    # at each end, what was seen or more extreme has a probability of 2.5 %
    assert low == 0 if successes == 0 else tail(successes, total, low) == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if successes == total else 1 - tail(successes + 1, total, high) == pytest.approx(0.025, rel=1e-6)
    assert low <= successes / total <= high


def test_interval_covers_the_truth_often_enough() -> None:
    draw = random.Random(0)
    for share in (0.5, 0.7, 0.97):
        held = 0
        for _ in range(400):
            low, high = exact_interval(sum(draw.random() < share for _ in range(30)), 30)
            held += low <= share <= high
        assert held >= 0.93 * 400


def test_preference_counts_ties_apart() -> None:
    choices: list[Choice] = ["candidate"] * 18 + ["baseline"] * 4 + ["both"] * 5 + ["neither"] * 3
    found = preference_of(choices)
    assert (found.pictures, found.candidate, found.baseline, found.both, found.neither) == (30, 18, 4, 5, 3)
    assert found.share == pytest.approx(18 / 22)
    assert (found.low, found.high) == exact_interval(18, 22)
    assert found.p_value == pytest.approx(2 * tail(18, 22, 0.5))
    assert found.verdict == "better"
    assert preference_of(["baseline"] * 9).verdict == "worse"
    assert preference_of(["candidate"] * 5).verdict == "no sure difference"  # 5 of 5: 0.478 to 1


def test_nothing_is_known_without_a_decided_picture() -> None:
    for found in (preference_of([]), preference_of(["both", "neither"])):
        assert (found.share, found.low, found.high, found.p_value) == (None, 0.0, 1.0, 1.0)
        assert found.verdict == "no sure difference"


def test_pictures_judged_by_several_count_once() -> None:
    judges: dict[str, dict[str, Choice]] = {
        "ann": {"1": "candidate", "2": "candidate", "3": "both", "4": "neither", "5": "both"},
        "bob": {"1": "candidate", "2": "baseline", "3": "candidate", "4": "both", "5": "neither"},
        "eve": {"1": "baseline", "4": "neither", "6": "baseline"},
    }
    found = joint_preference(judges)
    assert found.pictures == 6
    assert found.candidate == 2  # 1 by two to one, 3 by one to none
    assert found.baseline == 1
    assert found.split == 1  # 2
    assert (found.both, found.neither) == (1, 1)  # 5, 4
    assert joint_preference({"ann": judges["ann"]}) == preference_of(list(judges["ann"].values()))


def test_agreement_of_two_by_hand() -> None:
    first: dict[str, Choice] = {"1": "candidate", "2": "candidate", "3": "baseline", "4": "both", "5": "neither"}
    second: dict[str, Choice] = {"1": "candidate", "2": "baseline", "3": "baseline", "4": "both", "9": "both"}
    found = agreement_of({"a": first, "b": second})
    # four in common, three equal; by chance: candidate 2·1, baseline 1·2, both 1·1 of 16
    chance = (2 * 1 + 1 * 2 + 1 * 1) / 16
    assert found.kappa == pytest.approx((0.75 - chance) / (1 - chance))
    assert (found.pairs, found.shared, found.equal) == (1, 4, 3)


def test_agreement_of_three_is_the_mean_of_the_pairs() -> None:
    draw = random.Random(1)
    judges: dict[str, dict[str, Choice]] = {
        name: {str(picture): draw.choice(CHOICES) for picture in range(40)} for name in "abc"
    }
    pairs = [agreement_of({one: judges[one], two: judges[two]}).kappa for one, two in ("ab", "ac", "bc")]
    assert None not in pairs
    assert agreement_of(judges).kappa == pytest.approx(sum(kappa for kappa in pairs if kappa is not None) / 3)
    assert agreement_of(judges).pairs == 3


def test_agreement_can_be_undefined() -> None:
    assert agreement_of({"a": {"1": "both"}}).kappa is None
    assert agreement_of({"a": {"1": "both"}, "b": {"2": "both"}}) == agreement_of({})
    same = agreement_of({"a": {"1": "both", "2": "both"}, "b": {"1": "both", "2": "both"}})
    assert (same.kappa, same.shared, same.equal) == (None, 2, 2)  # equal throughout, but so it would be by chance
