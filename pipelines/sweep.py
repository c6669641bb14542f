"""The flow `sweep`: train with several settings in parallel, and rank them on the validation pictures.

Each training is a DVC experiment in a temporary copy of the checkout, and a child of one MLflow run. The test pictures
are not used: settings must not be chosen by the pictures that the model is evaluated on afterwards.
"""

import csv
import io
import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field

from imagecap.config import parse_settings, read_params
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_bytes, atomic_write_text
from imagecap.report.formatting import metric_label
from pipelines import tasks
from pipelines.shell import stream_many
from pipelines.tasks import HOUR

Value = bool | int | float | str | None
_PLOT_NAMES = 40


class Range(BaseModel):
    """Values between two ends for a random search; with `log`, drawn from a log-uniform distribution."""

    model_config = ConfigDict(extra="forbid")

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    log: bool = False


@flow(name="sweep")
def sweep(
    space: dict[str, list[Value] | Range],
    method: Literal["grid", "random"] = "grid",
    points: int = Field(default=10, gt=0),
    seed: int = 0,
    at_once: int = Field(default=1, gt=0),
    metric: str = "CIDEr",
) -> State[Any]:
    """Train with several settings, and rank them on the validation pictures.

    Args:
        space: setting → values, such as {"train.learning_rate": [0.001, 0.003]}, or a range for a random search, such
            as {"train.learning_rate": {"low": 0.0001, "high": 0.01, "log": true}}.
        method: grid tries every combination, random draws `points` of them.
        points: how many a random search tries.
        seed: of the draws.
        at_once: number of trainings in parallel.
        metric: ranks the points, by its mean over languages; val_loss ranks the lowest validation loss first.
    """
    try:
        chosen = space_points(space, method, points, seed)
        _check_folder(Path.cwd())
        with tasks.only_flow():
            return _sweep(chosen, at_once, metric)
    except Exception as error:
        return tasks.failure(error)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that DVC cannot copy an experiment from: it takes the path for a URI, without quoting it."""
    found = [character for character in "%#?" if character in str(folder)]
    if found:
        raise ImageCapError(
            f"DVC runs no experiments in copies of {folder}, since its path holds {' '.join(found)}: "
            "rename the folder, or train the points one after the other with `dvc exp run -S`"
        )


def space_points(
    space: dict[str, list[Value] | Range], method: Literal["grid", "random"], points: int, seed: int
) -> list[dict[str, Value]]:
    """Return the points of a search space, each checked against the schema.

    Raises:
        ImageCapError: the space is empty, a setting is unknown or out of range, or a grid has a range.
    """
    if not space or not all(isinstance(values, Range) or values for values in space.values()):
        raise ImageCapError('space: name settings and values, such as {"train.learning_rate": [0.001, 0.003]}')
    ranges = [name for name, values in space.items() if isinstance(values, Range)]
    if method == "grid":
        if ranges:
            raise ImageCapError(f"space: {ranges[0]} is a range; a grid takes lists (or set method to random)")
        lists = [values for values in space.values() if isinstance(values, list)]
        found = [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]
    else:
        generator = random.Random(seed)
        drawn = ({name: _draw(values, generator) for name, values in space.items()} for _ in range(20 * points))
        distinct = {json.dumps(point, sort_keys=True): point for point in drawn}
        found = list(distinct.values())[:points]
    now = read_params(str(tasks.ROOT / "params.yaml")).model_dump()
    for point in found:
        changed = {section: dict(values) for section, values in now.items()}
        for name, value in point.items():
            section, _, field = name.partition(".")
            changed.setdefault(section, {})[field] = value
        parse_settings(changed, "space")
    return found


def _draw(values: list[Value] | Range, generator: random.Random) -> Value:
    if isinstance(values, list):
        return generator.choice(values)
    if values.log:
        return float(f"{values.low * (values.high / values.low) ** generator.random():.6g}")
    return float(f"{values.low + (values.high - values.low) * generator.random():.6g}")


def _sweep(chosen: list[dict[str, Value]], at_once: int, metric: str) -> State[Any]:
    settings = read_params(str(tasks.ROOT / "params.yaml"))
    from imagecap.registry.store import connect, get_or_create_experiment
    from imagecap.registry.tracking import source_tags

    client = connect()
    parent = client.create_run(
        get_or_create_experiment(client, settings.tracking.experiment_name),
        run_name="sweep",
        tags={**source_tags(), "imagecap.sweep": json.dumps(chosen)[:4000]},
    ).info.run_id
    folder = tasks.ROOT / "outputs" / f"sweep-{parent[:8]}"
    status = "FAILED"
    try:
        try_points(chosen, at_once, parent, str(folder))
        rows = rank(read_points(folder, chosen), metric)
        message = write_results(rows, str(folder))
        for file in sorted(folder.glob("sweep.*")):
            client.log_artifact(parent, str(file))
        status = "FINISHED"
        return Completed(message=message)
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        client.set_terminated(parent, status)


@task(name="try-points", timeout_seconds=7 * 24 * HOUR)
def try_points(chosen: list[dict[str, Value]], at_once: int, parent: str, folder: str) -> None:
    """Train and validate every point; a point that fails gets the reason in place of metrics."""
    logger = get_run_logger()
    Path(folder).mkdir(parents=True, exist_ok=True)
    commands = []
    for number, point in enumerate(chosen, 1):
        name = f"{Path(folder).name}-{number:02}"
        asked = json.dumps({"name": name, "settings": point, "parent": parent})
        commands.append([sys.executable, "-m", "pipelines.sweep_point", asked, f"{folder}/{number:02}.json"])
    results = stream_many(commands, lambda number, line: logger.info("%02d: %s", number + 1, line), tasks.ROOT, at_once)
    for number, failure in enumerate(results, 1):
        if failure is not None:
            logger.error("%02d: %s", number, failure)
            atomic_write_text(Path(folder) / f"{number:02}.json", json.dumps({"failed": str(failure)}))


def read_points(folder: Path, chosen: list[dict[str, Value]]) -> list[dict[str, Any]]:
    """Return a row per point: its number, its settings, and the results of `pipelines.sweep_point` or why it failed."""
    rows = []
    for number, point in enumerate(chosen, 1):
        found = json.loads((folder / f"{number:02}.json").read_text(encoding="utf-8"))
        rows.append({"point": number, "settings": point, **found})
    return rows


def rank(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Sort the rows, best first and failures last, and add `value`, `low` and `high` of the metric.

    Raises:
        ImageCapError: no point has the metric.
    """
    for row in rows:
        named = [name for name in row.get("metrics", {}) if metric in {name, name.rpartition("/")[2]}]
        if not named:
            continue
        row["value"] = sum(row["metrics"][name] for name in named) / len(named)
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
            "failed": row.get("failed", ""),
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
    failed = sum("failed" in row for row in rows)
    if failed:
        message += f"; {failed} failed"
    message += f"; take it with: dvc exp apply {best['experiment']} && dvc repro; table and plot: {folder}"
    get_run_logger().info("%s", message)
    return message


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
