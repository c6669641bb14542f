"""Captions that the same model makes with two kinds of weights, compared picture by picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imagecap.eval.bootstrap import percentile_interval, resample_weights
from imagecap.metrics import References, score

RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """How captions differ from those of a baseline.

    Attributes:
        equal: share of pictures with the same caption.
        baseline: CIDEr of the baseline.
        cider: CIDEr of the others.
        low: lower end of the paired 95 % bootstrap interval of the difference in CIDEr.
        high: its upper end.
    """

    equal: float
    baseline: float
    cider: float
    low: float
    high: float


def compare(references: References, names: Sequence[str], baseline: Sequence[str], other: Sequence[str]) -> Comparison:
    """Compare two captions of each picture; `names` has the pictures in their order."""
    scores = [score(references, dict(zip(names, each, strict=True)), programs=False) for each in (baseline, other)]
    before, after = (np.array([found.per_image[name]["CIDEr"] for name in names]) for found in scores)
    low, high = percentile_interval(resample_weights(len(names), RESAMPLES) @ (after - before) / len(names))
    equal = sum(one == two for one, two in zip(baseline, other, strict=True)) / len(names)
    return Comparison(equal, scores[0].overall["CIDEr"], scores[1].overall["CIDEr"], low, high)
