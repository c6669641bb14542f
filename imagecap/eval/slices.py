"""Metrics of parts of the pictures: by length of references, by data set of a mix, and by extra columns."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from imagecap.eval.bootstrap import score_intervals, share_interval
from imagecap.eval.items import Item
from imagecap.eval.language_scores import LanguageScores
from imagecap.eval.truth import SCENE_COLUMN
from imagecap.metrics import References

MOST_VALUES = 12


def slice_scores(
    items: Sequence[Item], scored: LanguageScores, resamples: int, data_sets: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Score the slices of one language's captions.

    The first column is `reference length`: thirds of the pictures by the mean length of their references in tokens.
    With a mix, the next one is `data set`. A column of captions.json counts if it has 2 to 12 different values among
    the pictures; pictures without a value are left out. CIDEr keeps the idf of the whole set.

    Args:
        items: the scored items of the language.
        scored: their scores.
        resamples: bootstrap resamples behind the intervals.
        data_sets: names of those of a mix, with which the names of pictures begin.

    Returns:
        Rows of `column`, `value`, `language`, `n`, `metrics` and `intervals`, by column and value.
    """
    slices = [("reference length", value, chosen) for value, chosen in _length_thirds(scored.references)]
    slices += _by_data_set(items, data_sets)
    for column in sorted({name for item in items for name in item.extra} - {SCENE_COLUMN}):
        values = [_slice_value(item.extra.get(column)) for item in items]
        distinct = sorted({value for value in values if value is not None})
        if 2 <= len(distinct) <= MOST_VALUES:
            slices += [
                (column, each, np.array([index for index, value in enumerate(values) if value == each]))
                for each in distinct
            ]
    return [
        {"column": column, "value": value, "language": items[0].language, **_scores_of(scored, chosen, resamples)}
        for column, value, chosen in slices
    ]


def _length_thirds(references: References) -> list[tuple[str, np.ndarray]]:
    """Thirds of the pictures by mean reference length, named by their range; fewer where many have the same length."""
    means = np.bincount(references.image_of, references.lengths) / references.counts
    ends = np.unique(np.quantile(means, [1 / 3, 2 / 3, 1], method="inverted_cdf"))
    if len(means) < 6 or len(ends) < 2:
        return []
    thirds = np.searchsorted(ends, means)
    return [
        (f"{means[thirds == third].min():.1f}–{end:.1f}", np.flatnonzero(thirds == third))
        for third, end in enumerate(ends)
    ]


def _by_data_set(items: Sequence[Item], data_sets: Iterable[str]) -> list[tuple[str, str, np.ndarray]]:
    """The pictures of each data set, if there are pictures of several."""
    owners = np.array([item.image.partition("/")[0] for item in items])
    found = [("data set", name, np.flatnonzero(owners == name)) for name in data_sets if (owners == name).any()]
    return found if len(found) > 1 else []


def _scores_of(scored: LanguageScores, chosen: np.ndarray, resamples: int) -> dict[str, Any]:
    """Metrics and intervals of the items with the given indices. `[chosen]`"""
    scores = scored.scores.subset(chosen)
    metrics, intervals = dict(scores.overall), score_intervals(scores, resamples)
    if scored.truth is not None:
        hits = sum(scored.truth[index] for index in chosen)
        metrics["true_share"] = hits / len(chosen)
        intervals["true_share"] = share_interval(hits, len(chosen))
    return {
        "n": len(chosen),
        "metrics": metrics,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
    }


def _slice_value(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float | bool) and value != "" else None
