"""95 % confidence intervals: how much a number would move with other pictures of the same kind.

Scores have percentile bootstrap intervals over pictures (Efron and Tibshirani 1993, An Introduction to the Bootstrap).
Shares have Wilson's interval.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from imagecap.metrics import Scores

Interval = tuple[float, float]
Floats = NDArray[np.float64]

_SEED = 20240229
_WEIGHTS = 1 << 20  # drawn at once: about so many


def resample_weights(images: int, resamples: int, seed: int = 0) -> Floats:
    """Draw bootstrap resamples of the pictures, with replacement.

    The draws depend on the arguments only, so that two runs over the same pictures are resampled in pairs.

    Returns:
        How often each picture is in each resample. `[resamples, images]`
    """
    return np.concatenate(list(_weight_blocks(images, resamples, seed)))


def resampled(
    images: int, resamples: int, compute: Callable[[Floats], Mapping[str, Floats]], seed: int = 0
) -> dict[str, Floats]:
    """Compute numbers of bootstrap resamples, some resamples at a time: weights of all take 8 bytes per image of each.

    Args:
        images: number of pictures.
        resamples: number of resamples.
        compute: from the weights of some resamples, `[some, images]`, a number of each by name, `[some]`.
        seed: see `resample_weights`.

    Returns:
        The numbers of all resamples by name. `[resamples]` each
    """
    found = [compute(weights) for weights in _weight_blocks(images, resamples, seed)]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _weight_blocks(images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield the weights of some resamples after the other. `[some, images]`

    BLAS adds the products of four rows, or of two, in one order and of a single row in another. So that sums do not
    depend on the blocks, their rows are a multiple of four, and none has one row.
    """
    generator, shares = np.random.default_rng(_SEED + seed), np.full(images, 1 / images)
    rows = 4 * max(1, _WEIGHTS // (4 * images))
    for start, stop in pairwise([0, *range(rows, resamples - 1, rows), resamples]):
        yield generator.multinomial(images, shares, size=stop - start).astype(np.float64)


def percentile_interval(resampled: Floats) -> Interval:
    """The 2.5 % and 97.5 % quantiles of a number's values over resamples. `[resamples]`"""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def score_intervals(scores: Scores, resamples: int) -> dict[str, Interval]:
    """Bootstrap interval of every metric of a set of captions.

    BLEU and METEOR are computed anew from the summed counts of each resample. CIDEr keeps the idf of the whole set.

    Args:
        scores: scores of the captions.
        resamples: number of resamples.

    Returns:
        Interval per metric; none without resamples or with fewer than two pictures.
    """
    images = len(scores.images)
    if resamples == 0 or images < 2:
        return {}
    values = resampled(images, resamples, scores.resampled)
    return {name: percentile_interval(each) for name, each in values.items()}


def mean_interval(values: Floats, resamples: int) -> Interval | None:
    """Bootstrap interval of the mean of one number per picture; None where `score_intervals` gives none. `[images]`"""
    if resamples == 0 or len(values) < 2:
        return None
    means = resampled(len(values), resamples, lambda weights: {"mean": weights @ values / len(values)})
    return percentile_interval(means["mean"])


def share_interval(successes: int, total: int) -> Interval:
    """Wilson's interval of a share (Wilson 1927), which unlike the bootstrap is also right near 0 and 1."""
    z = 1.959963984540054
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
