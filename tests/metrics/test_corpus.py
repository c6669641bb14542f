"""References that are indexed and scored a part of the images at a time give the scores of all at once, bit for bit."""

import random
from typing import Any

import numpy as np
import pytest

from imagecap.errors import ImageCapError
from imagecap.eval.bootstrap import score_intervals
from imagecap.metrics import Corpus, corpus, overall_scores, prepare_references, score, score_corpus

ENGLISH = "a the red dog dogs runs on 1 1/2 grass K. The naïve café — “quoted” can't stop . , !"
CHINESE = "一只两红色的狗在草地上跑，。猫 "
WORDS = {"en": ENGLISH.split(" "), "zh": list(CHINESE)}


@pytest.mark.parametrize("language", WORDS)
def test_the_scores_are_those_of_all_references_at_once(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_IMAGES", 7)
    rng = random.Random(1)
    gap = " " if language == "en" else ""

    def sentence(*more: str) -> str:
        return gap.join(rng.choice([*WORDS[language], *more]) for _ in range(rng.randrange(0, 14)))

    references = {str(image): [sentence() for _ in range(rng.randrange(1, 5))] for image in range(60)}
    # words that no reference has come in other orders in later parts
    said = [{image: sentence("new", "newer", "newest", "most") for image in references} for _ in range(3)]
    prepared = prepare_references(references, language)
    first, *others = (score(prepared, captions, programs=False) for captions in said)

    indexed = Corpus(list(references.values()), language)
    further: dict[Any, list[str]] = {number: list(said[number].values()) for number in (1, 2)}
    found, overall = score_corpus(indexed, list(said[0].values()), further)
    assert {name: found.overall[name] for name in first.overall} == first.overall
    assert all(np.array_equal(found.columns[name], first.columns[name]) for name in first.columns)
    assert found.per_image["59"].items() >= first.per_image["59"].items()
    assert [overall[1], overall[2]] == [each.overall for each in others]
    assert overall_scores(indexed, further[1]) == others[0].overall
    ends = score_intervals(found, 50)
    assert {name: ends[name] for name in first.overall} == score_intervals(first, 50)
    some = np.arange(0, 60, 2)
    assert score_intervals(found.subset(some), 50) == score_intervals(first.subset(some), 50)
    assert indexed.mean_lengths[3] == prepared.lengths[prepared.image_of == 3].mean()


def test_an_image_without_references_is_named_by_its_place() -> None:
    with pytest.raises(ImageCapError, match="image 2: references must be a list of at least one caption"):
        Corpus([["a dog"], []])
    with pytest.raises(ImageCapError, match="no references"):
        Corpus([])
