"""`run.py lineage`: print how a registered version came about."""

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print the lineage of a version, which is read from the registry alone.

    Raises:
        ImageCapError: there is no such version, or it has no record.
    """
    from imagecap.registry.lineage import read_lineage, resolve_version
    from imagecap.registry.store import connect

    client = connect()
    record = read_lineage(client, *resolve_version(client, arguments.model))
    print(json.dumps(record, ensure_ascii=False, indent=2) if arguments.json else "\n".join(_lines(record)))


def _lines(record: dict[str, Any]) -> list[str]:
    git, data = record.get("git") or {}, record.get("data") or {}
    rows = [
        ("model", " ".join([record["model"], *(f"@{alias}" for alias in record["aliases"])])),
        ("sha256", record["model_hash"]),
        *([("weights", "int8, made of those that were trained")] if record.get("weights") == "int8" else []),
        ("decision", f"{record['decision']['decision']}: {record['decision']['reason']}"),
        ("run", record["run"]),
        *((f"parent, {what}", str(value)) for what, value in record["parents"].items() if value),
        ("git commit", git.get("commit", "none")),
        ("tree", _tree(git)),
        *((f"data, {path}", md5) for path, md5 in (data.get("dvc") or {}).items()),
        *((what, _counted(data[what])) for what in ("pictures", "captions") if what in data),
        ("trained on", f"{record['training_pictures']} pictures" if record["training_pictures"] else "unknown"),
        *(("base", _base(base)) for base in record["bases"]),
        *((f"metric, {entry['shown']}", _metric(entry)) for entry in (record.get("metrics") or {}).values()),
        ("made with", ", ".join(f"{name} {number}" for name, number in record["versions"].items())),
        ("on", record["machine"]),
    ]
    if record.get("doubt"):
        rows.append(("doubt", record["doubt"]))
    rows += [
        (f"{section}.{name}", "none" if value is None else str(value))
        for section, values in record["settings"].items()
        for name, value in values.items()
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _tree(git: dict[str, Any]) -> str:
    if not git:
        return "no git"
    if git["clean"]:
        return "clean"
    kept = "the changes are recorded" if git["patch"] else "the changes are too large to be recorded"
    return f"changed: {', '.join(git['changed'])} ({kept})"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _base(base: dict[str, str | None]) -> str:
    what = f"sha256 {base['sha256']}" if "sha256" in base else f"commit {base.get('commit') or 'unknown'}"
    return f"{base['name']} {what}"


def _metric(entry: dict[str, Any]) -> str:
    interval = f" ({entry['low']:.4f} to {entry['high']:.4f})" if "low" in entry else ""
    return f"{entry['value']:.4f}{interval}"
