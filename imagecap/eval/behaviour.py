"""What captions are like, apart from being right: length, repetition, variety, copies."""

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
    """Figures of one language's captions.

    Args:
        captions: what the model said.
        references: what people said, per picture; may be empty.
        truncated: whether each caption was cut at the length limit.
        training: captions that the model was trained on.
        language: decides the tokenizer (its default): words in English, characters in Chinese.

    Returns:
        Mean lengths in tokens, shares in 0..1, numbers of distinct tokens; what cannot be known is left out.
    """
    tokens = tokenize(captions, language)
    said = [token for each in tokens for token in each]
    pairs = [pair for each in tokens for pair in pairwise(each)]
    count = len(captions)
    result: dict[str, float] = {
        "captions": count,
        "mean_length": len(said) / count,
        "empty_share": sum(not each for each in tokens) / count,
        "truncated_share": sum(truncated) / count,
        "repetitive_share": sum(is_repetitive(each) for each in tokens) / count,
        "vocabulary": len(set(said)),
        "distinct_captions_share": len({" ".join(each) for each in tokens}) / count,
        "distinct_1": len(set(said)) / max(len(said), 1),
        "distinct_2": len(set(pairs)) / max(len(pairs), 1),
    }
    human = tokenize([caption for each in references for caption in each], language)
    if human:
        result["reference_mean_length"] = sum(map(len, human)) / len(human)
        result["reference_vocabulary"] = len({token for each in human for token in each})
    if training:
        known = {" ".join(each) for each in tokenize(list(dict.fromkeys(training)), language)}
        result["copied_from_training_share"] = sum(" ".join(each) in known for each in tokens if each) / count
    return result


def is_repetitive(tokens: Sequence[str]) -> bool:
    """Whether a token comes three times in a row, or three or more tokens come again right after themselves."""
    length = len(tokens)
    for size in (1, *range(3, length // 2 + 1)):
        times = 3 if size == 1 else 2
        for start in range(length - size * times + 1):
            piece = tokens[start : start + size]
            if all(tokens[start + size * k : start + size * (k + 1)] == piece for k in range(1, times)):
                return True
    return False
