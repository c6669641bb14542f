"""What came out of a sweep: the points by rank, as a table, a plot and a message."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_bytes, atomic_write_text
from imagecap.report.formatting import metric_label
from pipelines.tasks import HOUR

_PLOT_NAMES = 40


def metric_value(row: dict[str, Any], metric: str) -> float | None:
    """The mean of a metric over languages in the results of a point; None if it was not measured."""
    named = _named(row, metric)
    return sum(row["metrics"][name] for name in named) / len(named) if named else None


def _named(row: dict[str, Any], metric: str) -> list[str]:
    return [name for name in row.get("metrics", {}) if metric in {name, name.rpartition("/")[2]}]


def rank(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Sort the rows, best first and failures last, and add `value`, `low` and `high` of the metric.

    Raises:
        ImageCapError: no point has the metric.
    """
    for row in rows:
        named = _named(row, metric)
        if not named:
            continue
        row["value"] = metric_value(row, metric)
        row["shown"] = " and ".join(metric_label(name, row.get("names", {})) for name in named)
        ends = [row["intervals"][name] for name in named if name in row["intervals"]]
        # mean of the intervals of the languages, which is wider than the interval of the mean
        row["low"], row["high"] = (
            [sum(end[side] for end in ends) / len(ends) for side in (0, 1)] if ends else [None, None]
        )
    measured = [row for row in rows if "value" in row]
    if not measured:
        reasons = [row["failed"] for row in rows if "failed" in row]
        known = sorted({name for row in rows for name in row.get("metrics", {})})
        raise ImageCapError(reasons[0] if reasons else f"metric: {metric!r} was not measured; there are {known}")
    measured.sort(key=lambda row: row["value"], reverse=metric != "val_loss")
    return measured + [row for row in rows if "value" not in row]


@task(name="write-results", timeout_seconds=HOUR)
def write_results(rows: list[dict[str, Any]], folder: str) -> str:
    """Write table and plot, and return a message with the best point and those whose intervals overlap its own."""
    table = [
        {
            "point": row["point"],
            "experiment": row.get("experiment", ""),
            **row["settings"],
            rows[0]["shown"]: row.get("value"),
            "low": row.get("low"),
            "high": row.get("high"),
            "failed": row.get("failed", "") or _stopped(row),
        }
        for row in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    atomic_write_text(Path(folder) / "sweep.csv", text.getvalue())
    atomic_write_bytes(Path(folder) / "sweep.png", _plot(rows))
    create_table_artifact(table, key="sweep", description=f"by {rows[0]['shown']} on the validation pictures")
    best = rows[0]
    message = (
        f"best: {best['experiment']} {json.dumps(best['settings'])}, validation {best['shown']} {_format_value(best)}"
    )
    close = [row["experiment"] for row in rows[1:] if _overlap(best, row)]
    if close:
        message += f"; not to be told from it by its interval: {', '.join(close)}"
    pruned = sum("pruned" in row for row in rows)
    if pruned:
        message += f"; {pruned} stopped early"
    failed = sum("failed" in row for row in rows)
    if failed:
        message += f"; {failed} failed"
    message += f"; take it with: dvc exp apply {best['experiment']} && dvc repro; table and plot: {folder}"
    get_run_logger().info("%s", message)
    return message


def _stopped(row: dict[str, Any]) -> str:
    return f"stopped after {row['pruned']} validations" if "pruned" in row else ""


def _overlap(best: dict[str, Any], row: dict[str, Any]) -> bool:
    if "value" not in row or row["low"] is None or best["low"] is None:
        return False
    return bool(row["high"] >= best["low"] and row["low"] <= best["high"])


def _format_value(row: dict[str, Any]) -> str:
    interval = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
    return f"{row['value']:.3f}{interval}"


def _plot(rows: list[dict[str, Any]]) -> bytes:
    from matplotlib.figure import Figure

    shown = [row for row in rows if "value" in row][:_PLOT_NAMES][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(shown):
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color="#6c8ebf", linewidth=2)
        axes.plot([row["value"]], [place], "o", color="#23395d")
    axes.set_yticks(range(len(shown)), [_label(row) for row in shown])
    axes.set_xlabel(f"{shown[0]['shown']} on the validation pictures, with its 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _label(row: dict[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in row["settings"].items())
