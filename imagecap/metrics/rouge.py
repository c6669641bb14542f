"""ROUGE-L (Lin 2004) as coco-caption computes it."""

from collections.abc import Mapping, Sequence

import numpy as np

from imagecap.metrics.metric import Floats, TokenizedCaptions, mean_metric

_BETA = 1.2


def rouge_l(captions: TokenizedCaptions) -> Floats:
    """F score of the longest common subsequence with beta 1.2. `[captions]`

    Precision and recall are each the best over the references, even where two references give them.
    """
    references = captions.references
    result = np.zeros(len(references.images))
    ends = np.cumsum(references.counts).tolist()
    start = 0
    for index, end in enumerate(ends):
        caption = captions.tokens[index] or [""]
        precision = recall = 0.0
        for each in range(start, end):
            size = len(references.tokens[each]) or 1
            common = _common_subsequence(references.masks[each], size, caption)
            precision = max(precision, common / len(caption))
            recall = max(recall, common / size)
        if precision and recall:
            result[index] = ((1 + _BETA**2) * precision * recall) / (recall + _BETA**2 * precision)
        start = end
    return result


def _common_subsequence(masks: Mapping[str, int], size: int, tokens: Sequence[str]) -> int:
    """Length of the longest common subsequence, by one addition of big integers per token (Hyyrö 2004)."""
    ones = (1 << size) - 1
    row = ones
    for token in tokens:
        mask = masks.get(token)
        if mask is not None:
            matches = row & mask
            row = (row + matches) | (row - matches)
    return size - (row & ones).bit_count()


ROUGE_L = mean_metric("ROUGE_L", rouge_l)
