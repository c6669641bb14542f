"""What scores mean little or much: captions that need no model, and what people themselves reach.

Floors know the training captions, not the picture (but the nearest neighbour, which knows the encoder's view of it).
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from imagecap.metrics import References, prepare_references, tokenize
from imagecap.metrics.cider import cider

# every kind that `floors` of eval_results.json may hold, floors before the ceiling
BASELINES: tuple[str, ...] = ("constant", "random", "neighbour", "shuffled", "human")

_SEED = 20240301
CONSTANT_CANDIDATES = 300
CONSTANT_PICTURES = 400
HUMAN_ROUNDS = 5


def best_constant(training: Mapping[str, Sequence[str]], language: str, tokenizer: str | None = None) -> str:
    """The one training caption that, said of every picture, has the best CIDEr against training references.

    The most frequent captions and a random sample of the others are tried, on a sample of the training pictures.

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
    means = [
        float(np.mean(cider(references, [tokens] * len(chosen))))
        for tokens in tokenize(candidates, language, tokenizer)
    ]
    return candidates[int(np.argmax(means))]


def random_captions(training: Mapping[str, Sequence[str]], count: int, round_: int) -> list[str]:
    """Any training caption for each of `count` pictures."""
    generator = random.Random(_SEED + round_)
    pool = [caption for picture in sorted(training) for caption in training[picture]]
    return [generator.choice(pool) for _ in range(count)]


def shuffled_order(pictures: Sequence[str], round_: int) -> list[int]:
    """For each picture the index of another one, each used once: a random cycle through all of them.

    With two pictures or more none is its own.
    """
    order = list(range(len(pictures)))
    random.Random(_SEED + round_).shuffle(order)
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [following[index] for index in range(len(pictures))]


def human_rounds(
    references: Mapping[str, Sequence[str]], language: str, tokenizer: str | None = None
) -> list[tuple[References, dict[str, str]]]:
    """One person's caption against the others': rounds in which each picture's next reference is the candidate.

    Pictures with one reference are left out; without any other there are no rounds.
    """
    several = {picture: list(captions) for picture, captions in references.items() if len(captions) >= 2}
    if not several:
        return []
    rounds = []
    for round_ in range(min(HUMAN_ROUNDS, max(map(len, several.values())))):
        candidate = {picture: captions[round_ % len(captions)] for picture, captions in several.items()}
        others = {
            picture: [caption for place, caption in enumerate(captions) if place != round_ % len(captions)]
            for picture, captions in several.items()
        }
        rounds.append((prepare_references(others, language, tokenizer), candidate))
    return rounds
