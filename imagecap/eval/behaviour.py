"""Statistics of captions apart from correctness: length, repetition, variety, copies of training captions."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from imagecap.config import GenerateSettings
from imagecap.data.texts import count_words
from imagecap.generate.avoided_words import holds_word
from imagecap.generate.target_length import bounds
from imagecap.metrics import tokenize

_DIGEST = np.dtype("S16")


def behaviour(
    captions: Sequence[str],
    references: Iterable[Sequence[str]],
    truncated: Sequence[bool] | NDArray[np.bool_],
    training: Iterable[str],
    language: str,
    asked: GenerateSettings | None = None,
) -> dict[str, float]:
    """Describe the captions of one language in figures.

    Distinct-1 and distinct-2 are the numbers of distinct tokens and token pairs over all tokens and pairs (Li et al.
    2016).

    Args:
        captions: the model's captions.
        references: references of each picture; may be empty.
        truncated: whether each caption was cut at the length limit.
        training: captions that the model was trained on; may be empty.
        language: decides the tokenizer (its default): words in English, characters in Chinese.
        asked: settings of the captions; with `target_length`, `avoid_words` or `tags` there is a figure of how well
            they are kept.

    Returns:
        Mean lengths in tokens, shares in 0..1, numbers of distinct tokens. Figures of references or training captions
        are left out where there are none.
    """
    count, lengths, pairs = len(captions), 0, 0
    empty = repetitive = 0
    vocabulary: set[str] = set()
    distinct_pairs: set[tuple[str, str]] = set()
    digests = np.zeros(count, _DIGEST)
    for place, tokens in enumerate(_tokenized(captions, language)):
        vocabulary.update(tokens)
        distinct_pairs.update(pairwise(tokens))
        lengths += len(tokens)
        pairs += max(len(tokens) - 1, 0)
        empty += not tokens
        repetitive += is_repetitive(tokens)
        digests[place] = _digest(tokens)
    result: dict[str, float] = {
        "captions": count,
        "mean_length": lengths / count,
        "empty_share": empty / count,
        "truncated_share": int(np.sum(truncated)) / count,
        "repetitive_share": repetitive / count,
        "vocabulary": len(vocabulary),
        "distinct_captions_share": len(np.unique(digests)) / count,
        "distinct_1": len(vocabulary) / max(lengths, 1),
        "distinct_2": len(distinct_pairs) / max(pairs, 1),
    }
    if asked is not None and asked.target_length:
        result["length_kept_share"] = length_kept_share(captions, asked.target_length)
    if asked is not None and asked.avoided:
        result["avoided_share"] = avoided_share(captions, asked.avoided)
    if asked is not None and asked.wanted_tags:
        result["all_tags_share"] = all_tags_share(captions, asked.wanted_tags)
    human = human_words = 0
    human_vocabulary: set[str] = set()
    for tokens in _tokenized((caption for group in references for caption in group), language):
        human += 1
        human_words += len(tokens)
        human_vocabulary.update(tokens)
    if human:
        result["reference_mean_length"] = human_words / human
        result["reference_vocabulary"] = len(human_vocabulary)
    known = np.fromiter((_digest(tokens) for tokens in _tokenized(training, language)), _DIGEST)
    if len(known):
        copied = np.isin(digests, known) & (digests != _digest([]))
        result["copied_from_training_share"] = int(copied.sum()) / count
    return result


def _tokenized(captions: Iterable[str], language: str) -> Iterator[list[str]]:
    for caption in captions:
        yield from tokenize([caption], language)


def _digest(tokens: Sequence[str]) -> bytes:
    """A digest of a caption's tokens, which is never that of other ones."""
    return hashlib.blake2b(" ".join(tokens).encode("utf-8", "surrogatepass"), digest_size=_DIGEST.itemsize).digest()


def length_kept_share(captions: Sequence[str], target: int) -> float:
    """Share of captions within 20 % of a number of words (`data.texts.count_words`)."""
    fewest, most = bounds(target)
    return sum(fewest <= count_words(caption) <= most for caption in captions) / len(captions)


def avoided_share(captions: Sequence[str], words: Sequence[str]) -> float:
    """Share of captions that hold none of the words."""
    return sum(not any(holds_word(caption, word) for word in words) for caption in captions) / len(captions)


def all_tags_share(captions: Sequence[str], tags: Sequence[str]) -> float:
    """Share of captions that name all of the tags."""
    return sum(all(holds_word(caption, tag) for tag in tags) for caption in captions) / len(captions)


def is_repetitive(tokens: Sequence[str]) -> bool:
    """Whether a token occurs three times in a row, or a run of three or more tokens is repeated at once."""
    length = len(tokens)
    for size in (1, *range(3, length // 2 + 1)):
        times = 3 if size == 1 else 2
        for start in range(length - size * times + 1):
            piece = tokens[start : start + size]
            if all(tokens[start + size * k : start + size * (k + 1)] == piece for k in range(1, times)):
                return True
    return False


def sample_diversity(samples: Sequence[Sequence[str]], language: str) -> dict[str, float]:
    """Measure how varied the captions of one picture are when they are sampled (Div-1, Div-2: Shetty et al. 2017).

    Args:
        samples: sampled captions of each picture, at least two per picture.
        language: decides the tokenizer.

    Returns:
        Means over pictures: `sampled_distinct_share`, the share of different captions; `sampled_div_1` and
        `sampled_div_2`, the numbers of different words and word pairs over the number of words.
    """
    shares, singles, doubles = [], [], []
    for captions in samples:
        tokens = tokenize(captions, language)
        words = [token for caption in tokens for token in caption]
        pairs = {pair for caption in tokens for pair in pairwise(caption)}
        shares.append(_distinct_share(tokens))
        singles.append(len(set(words)) / max(len(words), 1))
        doubles.append(len(pairs) / max(len(words), 1))
    count = len(samples)
    return {
        "sampled_distinct_share": sum(shares) / count,
        "sampled_div_1": sum(singles) / count,
        "sampled_div_2": sum(doubles) / count,
    }


def _distinct_share(tokens: Sequence[Sequence[str]]) -> float:
    return len({" ".join(caption) for caption in tokens}) / len(tokens)
