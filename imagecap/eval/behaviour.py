"""Statistics of captions apart from correctness: length, repetition, variety, copies of training captions."""

from collections.abc import Sequence
from itertools import pairwise

from imagecap.metrics import tokenize


def behaviour(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    truncated: Sequence[bool],
    training: Sequence[str],
    language: str,
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

    Returns:
        Mean lengths in tokens, shares in 0..1, numbers of distinct tokens. Figures of references or training captions
        are left out where there are none.
    """
    tokens = tokenize(captions, language)
    words = [token for caption in tokens for token in caption]
    pairs = [pair for caption in tokens for pair in pairwise(caption)]
    count = len(captions)
    result: dict[str, float] = {
        "captions": count,
        "mean_length": len(words) / count,
        "empty_share": sum(not caption for caption in tokens) / count,
        "truncated_share": sum(truncated) / count,
        "repetitive_share": sum(is_repetitive(caption) for caption in tokens) / count,
        "vocabulary": len(set(words)),
        "distinct_captions_share": _distinct_share(tokens),
        "distinct_1": len(set(words)) / max(len(words), 1),
        "distinct_2": len(set(pairs)) / max(len(pairs), 1),
    }
    human = tokenize([caption for group in references for caption in group], language)
    if human:
        result["reference_mean_length"] = sum(map(len, human)) / len(human)
        result["reference_vocabulary"] = len({token for caption in human for token in caption})
    if training:
        known = {" ".join(caption) for caption in tokenize(list(dict.fromkeys(training)), language)}
        copied = sum(" ".join(caption) in known for caption in tokens if caption)
        result["copied_from_training_share"] = copied / count
    return result


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
