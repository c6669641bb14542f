"""The geometry of the report's charts: positions in percent of an axis, and SVG paths in pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from imagecap.eval.floors import BASELINES
from imagecap.report.formatting import (
    format_interval,
    format_value,
    is_share,
    language_of_key,
    metric_label,
    metric_of_key,
)
from imagecap.report.wording_en import BASELINE_MEANINGS

_FIRST_LANES = ("true_share", "true_share_seen", "true_share_held_out", "CIDEr", "ROUGE_L", "Bleu_4")
_WITHOUT_LANE = ("Bleu_1", "Bleu_2", "Bleu_3", "METEOR", "CLIPScore", "RefCLIPScore")  # the table has them
CURVE_WIDTH, CURVE_HEIGHT = 560, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 26


def lanes(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One horizontal axis per metric: the model with its interval, and the floors and ceilings.

    Args:
        evaluation: contents of eval_results.json.

    Returns:
        One entry per axis, the languages in order. Positions (`x`, `low`, `high`) are in percent of the axis, which
        begins at 0 and ends at `top`.
    """
    languages = list(evaluation["data"]["languages"])
    rows = []
    for key in sorted(evaluation["metrics"], key=lambda key: _order(key, languages)):
        name = metric_of_key(key)
        if name in _WITHOUT_LANE:
            continue
        value = evaluation["metrics"][key]
        interval = evaluation["intervals"].get(key)
        others = {
            kind: evaluation["floors"][kind]["metrics"].get(key) for kind in BASELINES if kind in evaluation["floors"]
        }
        known = {kind: other for kind, other in others.items() if other is not None}
        top = 1.0 if is_share(key) else _nice_top(max([value, *known.values(), *(interval or [])]))
        rows.append(
            {
                "key": key,
                "label": metric_label(name, {name: evaluation["names"].get(key, name)}),
                "language": language_of_key(key, languages),
                "value": format_value(key, value),
                "interval": format_interval(key, interval),
                "x": _percent(value, top),
                "low": _percent(interval[0], top) if interval else None,
                "high": _percent(interval[1], top) if interval else None,
                "top": format_value(key, top),
                "marks": [
                    {"kind": kind, "x": _percent(other, top), "title": f"{kind}: {format_value(key, other)}"}
                    for kind, other in known.items()
                ],
            }
        )
    return rows


def legend(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """The floors and ceilings that are drawn, and what they mean."""
    return [{"kind": kind, "meaning": BASELINE_MEANINGS[kind]} for kind in BASELINES if kind in evaluation["floors"]]


def curves(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Learning curves: one chart with all losses, and one for every other number.

    Args:
        history: rows with a `step` (or `epoch`) and numbers by name. Numbers that are not finite are left out, and so
            are curves of fewer than two points.

    Returns:
        One entry per chart: its size in pixels, ticks of the vertical axis, and lines as SVG paths.
    """
    axis = "step" if any("step" in row for row in history) else "epoch"
    series: dict[str, list[tuple[float, float]]] = {}
    for index, row in enumerate(history):
        x = float(row.get(axis, index))
        for name, value in row.items():
            if name in ("step", "epoch") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                series.setdefault(name, []).append((x, float(value)))
    series = {name: points for name, points in series.items() if len(points) > 1}
    losses = [name for name in series if "loss" in name]
    groups = ([losses] if losses else []) + [[name] for name in series if name not in losses]
    return [chart(axis, {name: series[name] for name in group}) for group in groups]


def chart(axis: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """One chart with several lines.

    Args:
        axis: what the horizontal axis counts, such as `step`.
        series: points by the name of their line.

    Returns:
        Its size in pixels, ticks of the vertical axis, and lines as SVG paths.
    """
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    left, right = min(xs), max(xs)
    ticks = _ticks(min(ys), max(ys))
    bottom, top = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        """Pixel of a point."""
        across = (x - left) / (right - left or 1)
        up = (y - bottom) / (top - bottom or 1)
        return (
            _LEFT + across * (CURVE_WIDTH - _LEFT - _RIGHT),
            CURVE_HEIGHT - _BOTTOM - up * (CURVE_HEIGHT - _TOP - _BOTTOM),
        )

    return {
        "width": CURVE_WIDTH,
        "height": CURVE_HEIGHT,
        "axis": axis,
        "left": f"{left:g}",
        "right": f"{right:g}",
        "ticks": [{"y": round(at(left, tick)[1], 1), "label": f"{tick:g}"} for tick in ticks],
        "lines": [
            {
                "name": name.replace("_", " "),
                "path": "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*point) for point in points)),
                "last": f"{points[-1][1]:.4g}",
            }
            for name, points in series.items()
        ],
    }


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers; the first is at most `low`, the last at least `high`."""
    width = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(width / 3))
    step = next(step * factor for factor in (1, 2, 5, 10) if width / (step * factor) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(multiple * step, 12) for multiple in range(first, max(last, first + 1) + 1)]


def _nice_top(value: float) -> float:
    return _ticks(0.0, max(value, 0.05))[-1]


def _percent(value: float, top: float) -> float:
    return round(100 * min(max(value / top, 0.0), 1.0), 2)


def _order(key: str, languages: Sequence[str]) -> tuple[int, int]:
    language = language_of_key(key, languages)
    name = metric_of_key(key)
    return (
        languages.index(language) if language in languages else len(languages),
        _FIRST_LANES.index(name) if name in _FIRST_LANES else len(_FIRST_LANES),
    )
