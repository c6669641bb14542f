"""What the page shows of a version and of two versions, as JSON values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.eval.compare import Comparison
from imagecap.page.registered import Registered, Version
from imagecap.report.charts import chart, curves
from imagecap.report.formatting import format_interval, format_value, is_share, metric_label


def summary(registered: Registered, version: Version) -> dict[str, Any]:
    """The facts of a version for a list of all, with its metrics as its run has logged them."""
    from imagecap.registry.lineage import DECISION, REASON

    metrics = _logged_metrics(registered, version)
    wanted = registered.settings.promote.promote_metric.rpartition("/")[2]
    shown = [name for name in metrics if name.rpartition("/")[2].partition(".")[0] == wanted]
    shown += [name for name in metrics if name.rpartition("/")[2] == "true_share"]
    return {
        "number": version.number,
        "uri": version.uri,
        "aliases": list(version.aliases),
        "created": version.created,
        "decision": version.tags.get(DECISION),
        "reason": version.tags.get(REASON),
        "metrics": [{"label": _logged_label(name), "value": format_value(name, metrics[name])} for name in shown],
    }


def details(registered: Registered, version: Version) -> dict[str, Any]:
    """Everything about a version but its captions and its report."""
    found = summary(registered, version)
    evaluation = _evaluation_or_none(registered, version)
    found["scores"] = _scores(evaluation) if evaluation else []
    found["captions"] = len(evaluation["results"]) if evaluation else 0
    found["notes"] = [str(note) for note in evaluation.get("notes", [])] if evaluation else []
    found["curves"] = curves(_history(registered, version))
    found["preferences"] = _preferences(version)
    found["facts"] = [{"name": name, "value": value} for name, value in _flat(_lineage(registered, version))]
    found["has_report"] = has_report(registered, version)
    return found


def has_report(registered: Registered, version: Version) -> bool:
    """Whether the run of a version has stored a report."""
    from imagecap.registry.evaluations import REPORT, file_of_run

    try:
        return bool(version.run) and file_of_run(registered.client, version.run, REPORT).is_file()
    except ImageCapError:
        return False


def caption_rows(
    evaluation: Mapping[str, Any], find: str, order: str, offset: int, limit: int
) -> tuple[list[dict[str, Any]], int]:
    """A page of the captions of an evaluation.

    Args:
        evaluation: contents of eval_results.json.
        find: text that a caption, a reference or the name must hold; empty for all.
        order: "worst" or "best" by CIDEr, or "file" for the order of the evaluation.
        offset: number of rows before the page.
        limit: number of rows of the page.

    Returns:
        The rows, and the number of all that fit.
    """
    wanted = find.casefold()
    rows = [row for row in evaluation["results"] if not wanted or wanted in _searched(row)]
    if order != "file":
        rows.sort(key=_cider, reverse=order == "best")
    return [_caption(row) for row in rows[offset : offset + limit]], len(rows)


def changes(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of a table with what changed in every metric."""
    rows = []
    for key, change in comparison.changes.items():
        scale, digits, unit = (100, 1, "%") if is_share(key) else (1, 3, "")
        rows.append(
            {
                "label": metric_label(key, comparison.names),
                "baseline": format_value(key, change.baseline),
                "candidate": format_value(key, change.candidate),
                "difference": f"{scale * change.difference:+.{digits}f}{unit}",
                "interval": f"{scale * change.low:+.{digits}f} – {scale * change.high:+.{digits}f}{unit}",
                "p": f"{change.p_value:.3f}",
                "better": change.better,
                "worse": change.worse,
                "verdict": change.verdict,
            }
        )
    return rows


def shared_scores(registered: Registered, versions: Sequence[Version]) -> list[dict[str, Any]]:
    """The scores that two versions both have, each on the test pictures of its own evaluation.

    Returns:
        Rows of `label`, `values` and `intervals`, the latter two in the order of the versions.
    """
    first, second = ({row["label"]: row for row in _own_scores(registered, version)} for version in versions)
    return [
        {
            "label": label,
            "values": [first[label]["value"], second[label]["value"]],
            "intervals": [first[label]["interval"], second[label]["interval"]],
        }
        for label in first
        if label in second
    ]


def shared_curves(registered: Registered, versions: Sequence[Version]) -> list[dict[str, Any]]:
    """A chart for each learning curve that several versions have, with a line for each version."""
    from imagecap.registry.evaluations import curves_of_run

    found = {version.number: curves_of_run(registered.client, version.run) for version in versions if version.run}
    names = dict.fromkeys(name for series in found.values() for name in series)
    charts = []
    for name in names:
        lines = {number: series[name] for number, series in found.items() if len(series.get(name, ())) > 1}
        if len(lines) > 1:
            charts.append({"title": name.replace("_", " "), **chart("step", lines)})
    return charts


def differences(registered: Registered, versions: Sequence[Version]) -> list[dict[str, str]]:
    """The facts and settings in which two versions differ: rows of name and both values."""
    first, second = (dict(_flat(_lineage(registered, version))) for version in versions)
    return [
        {"name": name, "baseline": first.get(name, "–"), "candidate": second.get(name, "–")}
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _evaluation_or_none(registered: Registered, version: Version) -> dict[str, Any] | None:
    try:
        return registered.evaluation(version.run) if version.run else None
    except ImageCapError:
        return None


def _own_scores(registered: Registered, version: Version) -> list[dict[str, str]]:
    """The scores of a version's evaluation; if its run has stored none, those that the run has logged."""
    evaluation = _evaluation_or_none(registered, version)
    if evaluation is not None:
        return _scores(evaluation)
    return [
        {"label": _logged_label(name), "value": format_value(name, value), "interval": ""}
        for name, value in _logged_metrics(registered, version).items()
    ]


def _logged_metrics(registered: Registered, version: Version) -> dict[str, float]:
    """The test metrics that the run of a version has logged; none if it has no run, or its run was deleted."""
    from mlflow.exceptions import MlflowException

    if not version.run:
        return {}
    try:
        logged = registered.client.get_run(version.run).data.metrics
    except MlflowException:
        return {}
    return {name.removeprefix("test/"): value for name, value in logged.items() if name.startswith("test/")}


def _scores(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    names, intervals = evaluation.get("names", {}), evaluation.get("intervals", {})
    return [
        {
            "label": metric_label(key, names),
            "value": format_value(key, value),
            "interval": format_interval(key, intervals.get(key)),
        }
        for key, value in evaluation.get("metrics", {}).items()
    ]


def _history(registered: Registered, version: Version) -> list[dict[str, float]]:
    from imagecap.registry.evaluations import curves_of_run

    if not version.run:
        return []
    series = curves_of_run(registered.client, version.run)
    return [{"step": step, name: value} for name, points in series.items() for step, value in points]


def _preferences(version: Version) -> list[dict[str, Any]]:
    from imagecap.registry.preference import PREFERENCE

    found = []
    for tag, value in version.tags.items():
        if tag.startswith(f"{PREFERENCE}."):
            try:
                found.append({**json.loads(value), "version": tag.removeprefix(f"{PREFERENCE}.")})
            except (ValueError, TypeError):
                continue
    return found


def _lineage(registered: Registered, version: Version) -> dict[str, Any]:
    """The lineage record of a version; an empty one if it was registered by other means."""
    from imagecap.registry.lineage import read_lineage

    try:
        return read_lineage(registered.client, version.name, version.number)
    except ImageCapError:
        return {}


def _flat(lineage: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The facts of a lineage record that say how a version was made, as names and texts."""
    for name in ("model_hash", "machine", "training_pictures"):
        if lineage.get(name) is not None:
            yield name.replace("_", " "), str(lineage[name])
    git, data = lineage.get("git") or {}, lineage.get("data") or {}
    if git:
        yield "git commit", str(git.get("commit"))
    for path, md5 in (data.get("dvc") or {}).items():
        yield f"data {path}", str(md5)
    for name, number in (lineage.get("versions") or {}).items():
        yield f"package {name}", str(number)
    for section, values in (lineage.get("settings") or {}).items():
        for name, value in values.items():
            yield f"{section}.{name}", "none" if value is None else str(value)


def _logged_label(name: str) -> str:
    """The label of a metric of a run, in whose name the tokenizer follows a full stop: `CIDEr.zh-char`."""
    prefix, _, rest = name.rpartition("/")
    metric, _, tokenizer = rest.partition(".")
    key = f"{prefix}/{metric}".removeprefix("/")
    return metric_label(key, {key: f"{metric}[{tokenizer}]"} if tokenizer else {})


def _cider(row: Mapping[str, Any]) -> float:
    return float((row.get("metrics") or {}).get("CIDEr", 0.0))


def _searched(row: Mapping[str, Any]) -> str:
    texts = (row["image"], row.get("caption"), *row.get("references", ()))
    return "\n".join(str(text) for text in texts).casefold()


def _caption(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image": row["image"],
        "digest": row.get("digest") or "",
        "caption": row.get("caption") or "",
        "references": list(row.get("references") or ()),
        "language": row.get("language") or "",
        "cider": _cider(row) if (row.get("metrics") or {}).get("CIDEr") is not None else None,
        "true": row.get("true"),
    }
