"""How varied captions of one picture are when they are sampled (Div-1 and Div-2 of Shetty et al. 2017)."""

from collections.abc import Sequence
from itertools import pairwise

from imagecap.metrics import tokenize

PICTURES = 50
TEMPERATURE = 1.0


def diversity(samples: Sequence[Sequence[str]], language: str) -> dict[str, float]:
    """Figures of sampled captions, each the mean over pictures.

    Args:
        samples: per picture its sampled captions, at least two.
        language: decides the tokenizer.

    Returns:
        `sampled_distinct_share`: different captions among a picture's samples, `sampled_div_1`, `sampled_div_2`:
        different words and pairs of words over all words said.
    """
    shares, singles, doubles = [], [], []
    for captions in samples:
        tokens = tokenize(captions, language)
        words = [token for each in tokens for token in each]
        pairs = [pair for each in tokens for pair in pairwise(each)]
        shares.append(len({" ".join(each) for each in tokens}) / len(captions))
        singles.append(len(set(words)) / max(len(words), 1))
        doubles.append(len(set(pairs)) / max(len(words), 1))
    count = len(samples)
    return {
        "sampled_distinct_share": sum(shares) / count,
        "sampled_div_1": sum(singles) / count,
        "sampled_div_2": sum(doubles) / count,
    }
