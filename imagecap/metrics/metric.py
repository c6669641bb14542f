"""Declaration of a metric: scores of single captions, and how the score of a set follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.metrics.ngrams import Counts, Ints, References

Floats = NDArray[np.float64]
Statistics = NDArray[Any]
"""Numbers of any dtype, such as small integers for counts."""

_ROWS = 1 << 14  # of statistics that are converted to floating point at once


@dataclass(frozen=True)
class TokenizedCaptions:
    """One caption per image of the references, in their order.

    Attributes:
        references: what the captions are scored against.
        tokens: of each caption.
        counts: n-grams of 1 to 4 words, in the references' ids.
        lengths: words per caption. `[captions]`
    """

    references: References
    tokens: Sequence[list[str]]
    counts: Sequence[Counts]
    lengths: Ints


@dataclass(frozen=True)
class Measurement:
    """Scores that a metric gives to captions.

    Attributes:
        per_image: scores of each caption. `[captions, names]`
        overall: scores of all captions together. `[names]`
        statistics: what the scores of any subset or resample follow from. `[captions, statistics]`
    """

    per_image: Floats
    overall: Floats
    statistics: Statistics


@dataclass(frozen=True)
class Program:
    """An external program that a metric needs.

    Attributes:
        understands: whether the program knows a language, given its code.
        is_installed: whether it can be run here.
        how_to_install: ends the sentence "… is not computed: ".
    """

    understands: Callable[[str], bool]
    is_installed: Callable[[], bool]
    how_to_install: str


@dataclass(frozen=True)
class Metric:
    """Declaration of a metric; see `mean_metric` for metrics whose overall score is a mean.

    Attributes:
        names: of its scores.
        measure: scores captions.
        of_sums: corpus scores from summed statistics, `[..., statistics]` in and `[..., names]` out. None: a corpus
            score is the mean of the captions' scores, which are the statistics.
        program: what it needs beside Python; None: nothing.
    """

    names: tuple[str, ...]
    measure: Callable[[TokenizedCaptions], Measurement]
    of_sums: Callable[[Floats], Floats] | None = None
    program: Program | None = None

    def overall(self, statistics: Statistics) -> Floats:
        """Scores of a set of captions from their statistics. `[names]`"""
        if self.of_sums is not None:
            return self.of_sums(statistics.sum(axis=0).astype(np.float64))
        return np.array([np.mean(values) for values in statistics.T])

    def resampled(self, statistics: Statistics, weights: Floats) -> Floats:
        """Scores of resamples, `[resamples, names]`; `weights` count each caption in each, `[resamples, captions]`."""
        if self.of_sums is not None:
            return self.of_sums(_weighted_sums(statistics, weights))
        return np.stack([weights @ values / len(values) for values in statistics.T], axis=1)

    def resampled_difference(self, before: Statistics, after: Statistics, weights: Floats) -> Floats:
        """Paired differences between two sets of captions of the same images, by resample. `[resamples, names]`"""
        if self.of_sums is not None:
            return self.resampled(after, weights) - self.resampled(before, weights)
        return self.resampled(after - before, weights)


def mean_metric(name: str, score_each: Callable[[TokenizedCaptions], Floats]) -> Metric:
    """A metric with one score per caption, `[captions]`, whose overall score is their mean."""

    def measure(captions: TokenizedCaptions) -> Measurement:
        scores = score_each(captions)
        return Measurement(scores[:, None], np.array([np.mean(scores)]), scores[:, None])

    return Metric((name,), measure)


def joined(metric: Metric, parts: Sequence[Measurement]) -> Measurement:
    """What a metric measured on captions, from what it measured on parts of them. Counts take little memory."""
    if len(parts) == 1:
        return replace(parts[0], statistics=compact(parts[0].statistics)) if metric.of_sums is not None else parts[0]
    per_image = np.concatenate([part.per_image for part in parts])
    if metric.of_sums is None:
        return Measurement(per_image, metric.overall(per_image), per_image)
    statistics = np.concatenate([part.statistics for part in parts])
    return Measurement(per_image, metric.overall(statistics), statistics)


def compact(statistics: Statistics) -> Statistics:
    """The same numbers, in the smallest unsigned integers that hold them if they are whole and not negative."""
    if not statistics.size or statistics.dtype.kind == "u":
        return statistics
    if statistics.min() < 0 or not np.array_equal(statistics, np.floor(statistics)) or statistics.max() >= 2**53:
        return statistics
    return statistics.astype(np.min_scalar_type(int(statistics.max())))


def _weighted_sums(statistics: Statistics, weights: Floats) -> Floats:
    """`weights @ statistics`. Sums of integers are exact in any order, and are taken without a copy of them all."""
    if statistics.dtype.kind != "u":
        return np.asarray(weights @ statistics)
    sums = np.zeros((len(weights), statistics.shape[1]))
    for start in range(0, len(statistics), _ROWS):
        rows = slice(start, start + _ROWS)
        sums += weights[:, rows] @ statistics[rows].astype(np.float64)
    return sums
