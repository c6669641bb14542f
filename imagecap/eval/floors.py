"""Floors and ceilings, which give a score its scale: captions that need no model, and what people reach.

Floors know the training captions but not the picture. Only the nearest-neighbour floor knows how the model's vision
encoder sees it.
"""

import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.data.records import Sample
from imagecap.data.views import View, chosen, positions
from imagecap.metrics import Cider, Corpus, overall_scores, prepare_references, tokenize
from imagecap.metrics.ngrams import count_hypotheses

Floor = tuple[dict[str, float], dict[str, Any]]
"""The metrics of a floor or ceiling, and details such as its caption."""

BASELINES: tuple[str, ...] = ("constant", "random", "neighbour", "shuffled", "human")
"""Every kind of floor, and the ceiling last, in the order in which they are shown."""

RANDOM_ROUNDS = 5
HUMAN_ROUNDS = 5
CONSTANT_CANDIDATES = 300
CONSTANT_PICTURES = 400
_SEED = 20240301


def floor_captions(
    captions: Sequence[str],
    training: Mapping[str, Sequence[str]],
    neighbours: Sequence[Sample] | None,
    language: str,
    tokenizer: str | None,
) -> dict[str, tuple[list[Sequence[str]], dict[str, Any]]]:
    """The captions of every floor that the data allows.

    Args:
        captions: the model's caption of each item, for the shuffled floor.
        training: training captions in the language by picture; empty: no constant and no random floor.
        neighbours: the training picture most like each item; None: no neighbour floor.
        language: of the captions.
        tokenizer: see `tokenize`.

    Returns:
        By kind, a caption per item in each round, and the details.
    """
    count = len(captions)
    found: dict[str, tuple[list[Sequence[str]], dict[str, Any]]] = {}
    if training:
        constant = best_constant(training, language, tokenizer)
        found["constant"] = [chosen([constant], np.zeros(count, np.int8))], {"caption": constant}
        pool = [caption for picture in sorted(training) for caption in training[picture]]
        rounds: list[Sequence[str]] = [chosen(pool, random_places(len(pool), count, n)) for n in range(RANDOM_ROUNDS)]
        found["random"] = rounds, {"rounds": RANDOM_ROUNDS}
    if neighbours is not None:
        texts = [
            next((caption.text for caption in sample.captions if caption.language == language), "")
            for sample in neighbours
        ]
        if any(texts):
            found["neighbour"] = [texts], {"pictures": len({sample.image for sample in neighbours})}
    if count > 1:
        rounds = [chosen(captions, shuffled_order(count, number)) for number in range(RANDOM_ROUNDS)]
        found["shuffled"] = rounds, {"rounds": RANDOM_ROUNDS}
    return found


def human_ceiling(references: Sequence[Sequence[str]], language: str, tokenizer: str | None) -> Floor | None:
    """The mean metrics of `human_rounds`; None if no picture has two references."""
    rounds, pictures = [], 0
    for others, candidates in human_rounds(references):
        rounds.append(overall_scores(Corpus(others, language, tokenizer), candidates))
        pictures = len(candidates)
    return (mean_of(rounds), {"rounds": len(rounds), "pictures": pictures}) if rounds else None


def mean_of(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of the metrics of several rounds."""
    return {name: float(np.mean([metrics[name] for metrics in rounds])) for name in rounds[0]}


def best_constant(training: Mapping[str, Sequence[str]], language: str, tokenizer: str | None = None) -> str:
    """Find the training caption that has the best mean CIDEr when it is the caption of every picture.

    The most frequent captions and a random sample of the others are tried on a random sample of the training pictures.

    Args:
        training: captions per training picture, one picture at least.
        language: their language.
        tokenizer: see `tokenize`.
    """
    generator = random.Random(_SEED)
    counted = Counter(caption for captions in training.values() for caption in captions)
    candidates = [caption for caption, _ in counted.most_common(CONSTANT_CANDIDATES // 3)]
    others = sorted(set(counted) - set(candidates))
    candidates += generator.sample(others, min(len(others), CONSTANT_CANDIDATES - len(candidates)))
    pictures = sorted(training)
    tried = generator.sample(pictures, min(len(pictures), CONSTANT_PICTURES))
    references = prepare_references({picture: training[picture] for picture in tried}, language, tokenizer)
    scorer, images = Cider(references), np.arange(len(tried))
    means = [
        float(np.mean(scorer.of_counts(images, count_hypotheses(references, [tokens] * len(tried))[0])))
        for tokens in tokenize(candidates, language, tokenizer)
    ]
    return candidates[int(np.argmax(means))]


def random_places(pool: int, count: int, round_: int) -> NDArray[np.int32]:
    """Draw one of `pool` captions for each of `count` pictures; another round draws others."""
    generator, places = random.Random(_SEED + round_), range(pool)
    return np.fromiter((generator.choice(places) for _ in range(count)), np.int32, count)


def shuffled_order(count: int, round_: int) -> NDArray[np.int32]:
    """A random permutation of `count` pictures that, with two pictures or more, leaves none in its place."""
    order = array("i", range(count))
    random.Random(_SEED + round_).shuffle(order)
    cycle = np.array(order, np.int32)
    following = np.empty_like(cycle)
    following[cycle] = np.roll(cycle, -1)  # one cycle through all pictures
    return following


def human_rounds(
    references: Sequence[Sequence[str]],
) -> Iterator[tuple[Sequence[Sequence[str]], Sequence[str]]]:
    """Split references into one person's caption and those of the others, once per round.

    In each round another reference of the picture is the candidate. Pictures with one reference are left out.

    Yields:
        The remaining references and the candidate of each picture, per round; nothing if no picture has two references.
    """
    counts = np.fromiter(map(len, references), np.int32, len(references))
    several = positions(counts >= 2)
    for round_ in range(min(HUMAN_ROUNDS, int(counts.max(initial=0)) if len(several) else 0)):

        def others(picture: int, round_: int = round_) -> list[str]:
            captions = references[picture]
            return [caption for index, caption in enumerate(captions) if index != round_ % len(captions)]

        def candidate(picture: int, round_: int = round_) -> str:
            captions = references[picture]
            return captions[round_ % len(captions)]

        yield View(others, several), View(candidate, several)
