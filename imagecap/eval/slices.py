"""Metrics of parts of the pictures: by length of their references, and by columns of captions.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from imagecap.eval.bootstrap import score_intervals, share_interval
from imagecap.eval.items import Item
from imagecap.eval.language_scores import LanguageScores
from imagecap.eval.truth import SCENE_COLUMN
from imagecap.metrics import METRICS
from imagecap.metrics.scores import BleuParts, overall_scores

MOST_VALUES = 12


def slices_of(items: Sequence[Item], scored: LanguageScores, resamples: int) -> list[dict[str, Any]]:
    """Rows of column, value, language, n, metrics and intervals, by column and value.

    The first column is `reference length`: thirds of the pictures by the mean length of their references, in tokens. A
    column of captions.json counts if it has 2 to 12 different values among the pictures; pictures without it are left
    out. The whole set's idf is used.
    """
    rows = [
        {"column": "reference length", "value": value, **_part(items, scored, chosen, resamples)}
        for value, chosen in _by_length(scored)
    ]
    for column in sorted({name for item in items for name in item.extra} - {SCENE_COLUMN}):
        values = [_value(item.extra.get(column)) for item in items]
        kinds = sorted({value for value in values if value is not None})
        if not 2 <= len(kinds) <= MOST_VALUES:
            continue
        for kind in kinds:
            chosen = np.array([index for index, value in enumerate(values) if value == kind])
            rows.append({"column": column, "value": kind, **_part(items, scored, chosen, resamples)})
    return rows


def _by_length(scored: LanguageScores) -> list[tuple[str, np.ndarray]]:
    """Thirds by mean reference length, named by their range; fewer where many pictures have one length."""
    references = scored.references
    means = np.bincount(references.image_of, references.lengths) / references.counts
    ends = np.unique(np.quantile(means, [1 / 3, 2 / 3, 1], method="inverted_cdf"))
    if len(means) < 6 or len(ends) < 2:
        return []
    thirds = np.searchsorted(ends, means)
    return [
        (f"{means[thirds == third].min():.1f}–{end:.1f}", np.flatnonzero(thirds == third))
        for third, end in enumerate(ends)
    ]


def _part(items: Sequence[Item], scored: LanguageScores, chosen: np.ndarray, resamples: int) -> dict[str, Any]:
    bleu = scored.scores.bleu
    part = BleuParts(bleu.correct[chosen], bleu.guess[chosen], bleu.length[chosen], bleu.reference_length[chosen])
    columns = {name: scored.scores.columns[name][chosen] for name in METRICS}
    metrics = overall_scores(columns, part)
    intervals = score_intervals(columns, part, resamples)
    if scored.truth is not None:
        hits = sum(scored.truth[index] for index in chosen)
        metrics["true_share"] = hits / len(chosen)
        intervals["true_share"] = share_interval(hits, len(chosen))
    return {
        "language": items[0].language,
        "n": len(chosen),
        "metrics": metrics,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
    }


def _value(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float | bool) and value != "" else None
