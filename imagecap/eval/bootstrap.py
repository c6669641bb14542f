"""95 % confidence intervals: how much a number would move with other pictures of the same kind.

Scores have percentile bootstrap intervals over pictures (Efron and Tibshirani 1993, An Introduction to the Bootstrap).
Shares have Wilson's interval.
"""

import math

import numpy as np
from numpy.typing import NDArray

from imagecap.metrics import Scores

Interval = tuple[float, float]
Floats = NDArray[np.float64]

_SEED = 20240229


def resample_weights(images: int, resamples: int, seed: int = 0) -> Floats:
    """Draw bootstrap resamples of the pictures, with replacement.

    The draws depend on the arguments only, so that two runs over the same pictures are resampled in pairs.

    Returns:
        How often each picture is in each resample. `[resamples, images]`
    """
    generator = np.random.default_rng(_SEED + seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


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
    weights = resample_weights(images, resamples)
    return {name: percentile_interval(values) for name, values in scores.resampled(weights).items()}


def mean_interval(values: Floats, resamples: int) -> Interval | None:
    """Bootstrap interval of the mean of one number per picture; None where `score_intervals` gives none. `[images]`"""
    if resamples == 0 or len(values) < 2:
        return None
    return percentile_interval(resample_weights(len(values), resamples) @ values / len(values))


def share_interval(successes: int, total: int) -> Interval:
    """Wilson's interval of a share (Wilson 1927), which unlike the bootstrap is also right near 0 and 1."""
    z = 1.959963984540054
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
