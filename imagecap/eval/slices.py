"""Metrics of parts of the pictures: by length of references, by data set of a mix, and by extra columns."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.data.views import positions
from imagecap.eval.bootstrap import score_intervals, share_interval
from imagecap.eval.items import Item
from imagecap.eval.language_scores import LanguageScores
from imagecap.eval.truth import SCENE_COLUMN

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
    slices = [("reference length", value, chosen) for value, chosen in _length_thirds(scored.references.mean_lengths)]
    slices += _by_data_set(items, data_sets)
    for column, codes in sorted(_columns(items).items()):
        slices += [
            (column, value, positions(codes.of_items == code)) for value, code in sorted(codes.of_values.items())
        ]
    return [
        {"column": column, "value": value, "language": items[0].language, **_scores_of(scored, chosen, resamples)}
        for column, value, chosen in slices
    ]


class _Codes:
    """The values of a column as numbers, in little memory.

    Attributes:
        of_values: number of each value.
        of_items: number of each item's value, or -1. `[items]`
    """

    def __init__(self, items: int) -> None:
        self.of_values: dict[str, int] = {}
        self.of_items: NDArray[np.int8] = np.full(items, -1, np.int8)


def _columns(items: Sequence[Item]) -> dict[str, _Codes]:
    """The columns that have 2 to `MOST_VALUES` different values."""
    columns: dict[str, _Codes | None] = {SCENE_COLUMN: None}
    for place, item in enumerate(items):
        for name, extra in item.extra.items():
            if name not in columns:
                columns[name] = _Codes(len(items))
            codes = columns[name]
            value = _slice_value(extra)
            if codes is None or value is None:
                continue
            code = codes.of_values.setdefault(value, len(codes.of_values))
            if code == MOST_VALUES:
                columns[name] = None  # too many values
            else:
                codes.of_items[place] = code
    return {name: codes for name, codes in columns.items() if codes is not None and len(codes.of_values) >= 2}


def _length_thirds(means: NDArray[np.float64]) -> list[tuple[str, NDArray[Any]]]:
    """Thirds of the pictures by mean reference length, named by their range; fewer where many have the same length."""
    ends = np.unique(np.quantile(means, [1 / 3, 2 / 3, 1], method="inverted_cdf"))
    if len(means) < 6 or len(ends) < 2:
        return []
    thirds = np.searchsorted(ends, means).astype(np.int8)
    return [
        (f"{means[thirds == third].min():.1f}–{end:.1f}", positions(thirds == third)) for third, end in enumerate(ends)
    ]


def _by_data_set(items: Sequence[Item], data_sets: Iterable[str]) -> list[tuple[str, str, NDArray[Any]]]:
    """The pictures of each data set, if there are pictures of several."""
    numbers = {name: number for number, name in enumerate(data_sets)}
    if not numbers:
        return []
    owners = np.fromiter((numbers.get(item.image.partition("/")[0], -1) for item in items), np.int32, len(items))
    found = [("data set", name, positions(owners == n)) for name, n in numbers.items() if (owners == n).any()]
    return found if len(found) > 1 else []


def _scores_of(scored: LanguageScores, chosen: NDArray[Any], resamples: int) -> dict[str, Any]:
    """Metrics and intervals of the items with the given indices. `[chosen]`"""
    scores = scored.scores.subset(chosen)
    metrics, intervals = dict(scores.overall), score_intervals(scores, resamples)
    if scored.truth is not None:
        hits = int(scored.truth[chosen].sum())
        metrics["true_share"] = hits / len(chosen)
        intervals["true_share"] = share_interval(hits, len(chosen))
    return {
        "n": len(chosen),
        "metrics": metrics,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
    }


def _slice_value(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float | bool) and value != "" else None
