"""The change of one metric between two evaluations of the same pictures, and how sure it is.

The interval of the difference is a paired bootstrap over pictures: both evaluations lose and gain the same pictures in
each resample (Koehn 2004). The p-value is that of the exact two-sided sign test on the pictures whose score changed.
"""

import math
from dataclasses import dataclass

from imagecap.eval.bootstrap import Floats, percentile_interval
from imagecap.eval.verdicts import Verdict, verdict

_EQUAL = 1e-9  # smaller differences between scores of a picture are rounding errors, and count as ties


@dataclass(frozen=True)
class Change:
    """One metric of two evaluations.

    Attributes:
        baseline: the number of the baseline.
        candidate: the number of the candidate.
        difference: candidate less baseline.
        low: low end of the 95 % interval of the difference.
        high: high end of the interval.
        p_value: p-value of the sign test.
        better: number of pictures on which the candidate scores higher.
        worse: number of pictures on which it scores lower.
        tied: number of the other pictures.
    """

    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int
    tied: int

    @property
    def verdict(self) -> Verdict:
        """Whether the candidate is better or worse than the baseline, by the interval of the difference."""
        return verdict(self.low, self.high)


def change_of(before: float, after: float, resampled: Floats, differences: Floats) -> Change:
    """Summarize the change of a metric.

    Args:
        before: the number of the baseline.
        after: the number of the candidate.
        resampled: difference of the two numbers in each resample. `[resamples]`
        differences: difference of the two scores of each picture. `[pictures]`
    """
    low, high = percentile_interval(resampled)
    better, worse = int((differences > _EQUAL).sum()), int((differences < -_EQUAL).sum())
    return Change(
        baseline=before,
        candidate=after,
        difference=after - before,
        low=low,
        high=high,
        p_value=sign_test(better, worse),
        better=better,
        worse=worse,
        tied=len(differences) - better - worse,
    )


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact p-value of `better` against `worse` if both were equally likely; ties do not count."""
    total, fewer = better + worse, min(better, worse)
    if total == 0:
        return 1.0
    term = tail = math.comb(total, fewer)
    for successes in range(fewer, 0, -1):  # from C(n, k) to C(n, k - 1), in integers
        term = term * successes // (total - successes + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)
