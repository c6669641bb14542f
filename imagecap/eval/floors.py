"""Floors and ceilings, which give a score its scale: captions that need no model, and what people reach.

Floors know the training captions but not the picture. Only the nearest-neighbour floor knows how the model's vision
encoder sees it.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imagecap.data.records import Sample
from imagecap.eval.items import Item
from imagecap.metrics import Cider, References, prepare_references, score, tokenize
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


def measure_floors(
    items: Sequence[Item],
    captions: Sequence[str],
    training: Mapping[str, Sequence[str]],
    neighbours: Sequence[Sample] | None,
    tokenizer: str | None,
    measure: Callable[[Sequence[str]], dict[str, float]],
) -> dict[str, Floor]:
    """Measure every floor and ceiling that the data allows.

    Args:
        items: pictures with references in one language.
        captions: the model's caption of each item, for the shuffled floor.
        training: training captions in the language by picture; empty: no constant and no random floor.
        neighbours: the training picture most like each item; None: no neighbour floor.
        tokenizer: see `tokenize`.
        measure: the metrics of one caption per item.

    Returns:
        Metrics and details by kind.
    """
    language, found = str(items[0].language), dict[str, Floor]()
    if training:
        constant = best_constant(training, language, tokenizer)
        found["constant"] = measure([constant] * len(items)), {"caption": constant}
        rounds = [measure(random_captions(training, len(items), number)) for number in range(RANDOM_ROUNDS)]
        found["random"] = _mean(rounds), {"rounds": RANDOM_ROUNDS}
    if neighbours is not None:
        texts = [
            next((caption.text for caption in sample.captions if caption.language == language), "")
            for sample in neighbours
        ]
        if any(texts):
            found["neighbour"] = measure(texts), {"pictures": len({sample.image for sample in neighbours})}
    if len(items) > 1:
        orders = [shuffled_order(len(items), number) for number in range(RANDOM_ROUNDS)]
        rounds = [measure([captions[index] for index in order]) for order in orders]
        found["shuffled"] = _mean(rounds), {"rounds": RANDOM_ROUNDS}
    rounds, pictures = [], 0
    for references, candidates in human_rounds(
        {str(index): item.references for index, item in enumerate(items)}, language, tokenizer
    ):
        rounds.append(dict(score(references, candidates, programs=False).overall))
        pictures = len(candidates)
    if rounds:
        found["human"] = _mean(rounds), {"rounds": len(rounds), "pictures": pictures}
    return found


def _mean(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
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
    chosen = generator.sample(pictures, min(len(pictures), CONSTANT_PICTURES))
    references = prepare_references({picture: training[picture] for picture in chosen}, language, tokenizer)
    scorer, images = Cider(references), np.arange(len(chosen))
    means = [
        float(np.mean(scorer.of_counts(images, count_hypotheses(references, [tokens] * len(chosen))[0])))
        for tokens in tokenize(candidates, language, tokenizer)
    ]
    return candidates[int(np.argmax(means))]


def random_captions(training: Mapping[str, Sequence[str]], count: int, round_: int) -> list[str]:
    """Draw a training caption for each of `count` pictures; another round draws others."""
    generator = random.Random(_SEED + round_)
    pool = [caption for picture in sorted(training) for caption in training[picture]]
    return [generator.choice(pool) for _ in range(count)]


def shuffled_order(count: int, round_: int) -> list[int]:
    """A random permutation of `count` pictures that, with two pictures or more, leaves none in its place."""
    order = list(range(count))
    random.Random(_SEED + round_).shuffle(order)
    following = dict(zip(order, order[1:] + order[:1], strict=True))  # one cycle through all pictures
    return [following[index] for index in range(count)]


def human_rounds(
    references: Mapping[str, Sequence[str]], language: str, tokenizer: str | None = None
) -> Iterator[tuple[References, dict[str, str]]]:
    """Split references into one person's caption and those of the others, once per round.

    In each round another reference of the picture is the candidate. Pictures with one reference are left out.

    Yields:
        The remaining references and the candidate of each picture, per round; nothing if no picture has two references.
    """
    several = {picture: list(captions) for picture, captions in references.items() if len(captions) >= 2}
    for round_ in range(min(HUMAN_ROUNDS, max(map(len, several.values()), default=0))):
        candidates = {picture: captions[round_ % len(captions)] for picture, captions in several.items()}
        others = {
            picture: [caption for index, caption in enumerate(captions) if index != round_ % len(captions)]
            for picture, captions in several.items()
        }
        yield prepare_references(others, language, tokenizer), candidates
