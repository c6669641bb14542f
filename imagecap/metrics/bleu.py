"""BLEU 1 to 4 (Papineni et al. 2002) as coco-caption computes it: the closest reference length, and its guards."""

import numpy as np

from imagecap.metrics.metric import Floats, Measurement, Metric, TokenizedCaptions
from imagecap.metrics.ngrams import ORDERS, find_sorted, sum_by_index

# coco-caption's guards against division by zero, which show in the scores of hopeless captions
_SMALL, _TINY = 1e-9, 1e-15


def bleu_statistics(captions: TokenizedCaptions) -> Floats:
    """The counts whose sum decides BLEU. `[captions, 10]`

    Columns: clipped n-gram matches by order (4), n-grams of the caption by order (4), words of the caption, words of
    the reference whose length is closest.
    """
    references, lengths = captions.references, captions.lengths
    images = len(references.images)
    statistics = np.zeros((images, 2 * ORDERS + 2))
    for order, (level, own) in enumerate(zip(references.levels, captions.counts, strict=True)):
        known = own.gram < len(level.codes)
        image, times = own.caption[known], own.times[known]
        found, place = find_sorted(level.image_gram, image * max(len(level.codes), 1) + own.gram[known])
        matches = np.where(found, np.minimum(times, level.most[place] if len(level.most) else 0), 0)
        statistics[:, order] = sum_by_index(image, matches, images)
    statistics[:, ORDERS : 2 * ORDERS] = np.maximum(lengths[:, None] - np.arange(ORDERS)[None, :], 0)
    statistics[:, -2] = lengths
    # of two references that are equally close, the shorter one counts: distance and length are packed in one integer
    distance = np.abs(references.lengths - lengths[references.image_of])
    start = np.searchsorted(references.image_of, np.arange(images))
    statistics[:, -1] = np.minimum.reduceat(distance * np.int64(2**31) + references.lengths, start) % np.int64(2**31)
    return statistics


def bleu_of_sums(sums: Floats) -> Floats:
    """BLEU 1 to 4 from (summed) statistics: `[..., 10]` in, `[..., 4]` out."""
    correct, guess = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    length, reference_length = sums[..., -2], sums[..., -1]
    precision = np.cumprod((correct + _TINY) / (guess + _SMALL), axis=-1)
    bleu = precision ** (1.0 / np.arange(1, ORDERS + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    with np.errstate(over="ignore", under="ignore"):
        brevity_penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return np.asarray(bleu * brevity_penalty[..., None])


def _measure(captions: TokenizedCaptions) -> Measurement:
    statistics = bleu_statistics(captions)
    return Measurement(bleu_of_sums(statistics), bleu_of_sums(statistics.sum(axis=0)), statistics)


BLEU = Metric(tuple(f"Bleu_{order + 1}" for order in range(ORDERS)), _measure, bleu_of_sums)
