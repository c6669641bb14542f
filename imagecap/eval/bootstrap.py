"""95 % intervals: how much a number would move with other pictures of the same kind."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from imagecap.metrics.java import meteor_of_sums
from imagecap.metrics.scores import BleuParts, Floats, bleu_scores

Interval = tuple[float, float]
_SEED = 20240229


def resample_weights(images: int, resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each picture is drawn in each resample, `[resamples, images]`.

    The same number of pictures always gives the same draws: two runs over the same pictures are resampled in pairs.
    """
    generator = np.random.default_rng(_SEED + seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def score_intervals(
    columns: Mapping[str, Floats], bleu: BleuParts, resamples: int, meteor: Floats | None = None
) -> dict[str, Interval]:
    """Percentile bootstrap over pictures; CIDEr's idf stays the one of the whole set.

    Args:
        columns: per-image scores; BLEU's are replaced by corpus BLEU of each resample.
        bleu: parts of BLEU per image.
        resamples: how many; 0 gives no intervals.
        meteor: METEOR's counts per image: its score of a resample is that of their sum.

    Returns:
        Low and high end per name.
    """
    images = len(bleu.length)
    if resamples == 0 or images < 2:
        return {}
    weights = resample_weights(images, resamples)
    corpus = bleu_scores(
        weights @ bleu.correct, weights @ bleu.guess, weights @ bleu.length, weights @ bleu.reference_length
    )
    result: dict[str, Interval] = {}
    for name, values in columns.items():
        if name == "METEOR" and meteor is not None:
            drawn = meteor_of_sums(weights @ meteor)
        else:
            drawn = corpus[:, int(name[-1]) - 1] if name.startswith("Bleu_") else weights @ values / images
        low, high = np.quantile(drawn, [0.025, 0.975])
        result[name] = (float(low), float(high))
    return result


def share_interval(successes: int, total: int) -> Interval:
    """Wilson's 95 % interval of a share, which is honest near 0 and 1 too, where resampling is not (Wilson 1927)."""
    z = 1.959963984540054
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
