"""Objects, colours and counts named in captions, in both languages."""

import pytest

from imagecap.eval.word_classes import concepts, hallucinated, truth_classes, word_classes


@pytest.mark.parametrize(
    ("caption", "language", "objects", "colours", "counts"),
    [
        ("Two men in RED shirts ride bikes.", "en", {"man", "shirt", "bicycle"}, {"red"}, {"two"}),
        ("a catalogue of carpets", "en", set(), set(), set()),
        ("A T-shirt, a tan puppy", "en", {"shirt", "dog"}, {"brown"}, set()),
        ("两只白色的小狗在草地上", "zh", {"dog", "grass"}, {"white"}, {"two"}),
        ("三个热气球在小船上方", "zh", {"balloon", "boat"}, set(), {"three"}),
        ("十字路口的公共汽车", "zh", {"bus"}, set(), set()),
        ("", "zh", set(), set(), set()),
    ],
)
def test_concepts(caption: str, language: str, objects: set[str], colours: set[str], counts: set[str]) -> None:
    assert concepts(caption, language) == {"objects": objects, "colours": colours, "counts": counts}


def test_precision_asks_anyone_and_recall_the_half() -> None:
    references = [["a red dog", "a dog with a ball", "the dog", "puppies"]]
    found = word_classes(["a blue dog and a cat"], references, "en")
    assert found["objects"] == {"precision": 0.5, "recall": 1.0, "named": 2, "wanted": 1}
    assert found["colours"] == {"precision": 0.0, "named": 1, "wanted": 0}
    assert "counts" not in found
    assert hallucinated("a blue dog and a cat", references[0], "en") == ["blue", "cat"]
    assert hallucinated("two dogs", references[0], "en") == []


def test_against_the_truth() -> None:
    truth = {"objects": frozenset({"car"}), "colours": frozenset({"red"}), "counts": frozenset({"two"})}
    found = truth_classes(["three red cars in the mountains"], [truth], "en")
    assert found["objects"]["precision"] == found["objects"]["recall"] == 1.0
    assert found["counts"] == {"precision": 0.0, "recall": 0.0, "named": 1, "wanted": 1}
