"""Metric names, values and intervals as text, the same in tables, charts and the HTML report.

Keys of `metrics` in eval_results.json are metric names (`CIDEr`). Where captions in several languages were scored, the
language comes first (`en/CIDEr`).
"""

from collections.abc import Mapping, Sequence

_SHARE_LABELS: dict[str, str] = {
    "true_share": "true",
    "true_share_seen": "true, seen pairs",
    "true_share_held_out": "true, new pairs",
}


def metric_of_key(key: str) -> str:
    """The metric of a key without its language: `en/CIDEr` → `CIDEr`."""
    return key.rpartition("/")[2]


def language_of_key(key: str, languages: Sequence[str]) -> str:
    """The language of a key. A key without one belongs to the only language that was scored."""
    return key.rpartition("/")[0] or (languages[0] if languages else "en")


def metric_label(key: str, names: Mapping[str, str]) -> str:
    """The label of a metric: its name with the tokenizer (`CIDEr[zh-char]`), or words for the share of true captions.

    Args:
        key: a key of `metrics` in eval_results.json.
        names: `names` of the same file.
    """
    metric, prefix = metric_of_key(key), key.rpartition("/")[0]
    # the name of a tokenizer says the language, that of a CLIP does not
    language = f" ({prefix})" if prefix and f"[{prefix}-" not in names.get(key, "") else ""
    return _SHARE_LABELS.get(metric, names.get(key, metric)) + language


def is_share(key: str) -> bool:
    """Whether the metric is a share of captions, which is shown in percent."""
    return metric_of_key(key).endswith(("_share", "_share_seen", "_share_held_out"))


def format_value(key: str, value: float | None) -> str:
    """The value of a metric with three decimals, or in percent; an empty text for None."""
    if value is None:
        return ""
    return f"{100 * value:.1f}%" if is_share(key) else f"{value:.3f}"


def format_interval(key: str, interval: Sequence[float] | None) -> str:
    """A 95 % interval as `low–high`; an empty text for None."""
    if interval is None:
        return ""
    low, high = interval
    return f"{100 * low:.0f}–{100 * high:.0f}%" if is_share(key) else f"{low:.3f}–{high:.3f}"
