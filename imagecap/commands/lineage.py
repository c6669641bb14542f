"""`run.py rollback` and `run.py lineage`: what the registry knows, told to a person."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from imagecap.checkout import checkout_of
from imagecap.config import read_params
from imagecap.errors import ImageCapError
from imagecap.registry.promotion import (
    CHAMPION,
    COMPARED_WITH,
    DECISION,
    PREVIOUS,
    REASON,
    champion_of,
    roll_back,
    versions,
)
from imagecap.registry.record import FACTS
from imagecap.registry.rescoring import version_files
from imagecap.registry.store import connect

_URI = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


def rollback(name: str | None, to: str | None) -> None:
    """Make an earlier version champion, and say so.

    Args:
        name: registered model; None: that of params.yaml.
        to: version; None: the champion before this one.

    Raises:
        ImageCapError: see `roll_back`.
    """
    if name is None:
        checkout = checkout_of()
        if checkout is None:
            raise ImageCapError("there is no dvc.yaml here or above; run this in the checkout, or give --name")
        name = read_params(str(checkout / "params.yaml")).tracking.registered_model_name
    before, now = roll_back(connect(), name, to)
    print(f"{name} version {now} @{CHAMPION}: rolled back from version {before}")
    print("a server that runs keeps the version it loaded: start it again")


def resolve(client: Any, uri: str) -> tuple[str, str]:
    """Name and version number of `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        ImageCapError: it is neither, or there is no such version.
    """
    from mlflow.exceptions import MlflowException

    found = _URI.fullmatch(uri)
    if found is None:
        raise ImageCapError(f"{uri!r} is no registered model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = found.groups()
    try:
        entry = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException:
        there = ", ".join(versions(client, name))
        known = f"the versions {there}, champion: {champion_of(client, name) or 'none'}" if there else "no version"
        raise ImageCapError(f"there is no {uri}; {name} has {known}") from None
    return name, str(entry.version)


def facts_of(client: Any, name: str, number: str) -> dict[str, Any]:
    """Everything that was recorded when a version was registered, and what was decided since.

    Raises:
        ImageCapError: the version has no record, or it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="imagecap-") as folder:
        file = version_files(client, name, number, "lineage", Path(folder)) / FACTS
        facts = json.loads(file.read_text(encoding="utf-8"))
    entry = client.get_model_version(name, number)
    aliases = client.get_registered_model(name).aliases
    tags = entry.tags
    facts |= {
        "model": f"models:/{name}/{number}",
        "aliases": sorted(alias for alias, version in aliases.items() if str(version) == number),
        "run": entry.run_id,
        "decision": {"decision": tags.get(DECISION), "reason": tags.get(REASON)},
        "parents": {
            "compared with": tags.get(COMPARED_WITH),
            "champion before": tags.get(PREVIOUS),
            "run": _parent_run(client, entry.run_id),
        },
    }
    return dict(facts)


def lineage(uri: str, *, as_json: bool = False) -> None:
    """Print how a registered version came about, from the registry alone.

    Raises:
        ImageCapError: there is no such version, or it has no record.
    """
    client = connect()
    facts = facts_of(client, *resolve(client, uri))
    print(json.dumps(facts, ensure_ascii=False, indent=2) if as_json else "\n".join(_lines(facts)))


def _parent_run(client: Any, run_id: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        parent = client.get_run(run_id).data.tags.get("mlflow.parentRunId")
    except MlflowException:  # the run was deleted
        return None
    return str(parent) if parent else None


def _lines(facts: dict[str, Any]) -> list[str]:
    git, data = facts.get("git") or {}, facts.get("data") or {}
    rows = [
        ("model", " ".join([facts["model"], *(f"@{alias}" for alias in facts["aliases"])])),
        ("sha256", facts["model_hash"]),
        ("decision", f"{facts['decision']['decision']}: {facts['decision']['reason']}"),
        ("run", facts["run"]),
        *((f"parent, {what}", str(value)) for what, value in facts["parents"].items() if value),
        ("git commit", git.get("commit", "none")),
        ("tree", _tree(git)),
        *((f"data, {path}", md5) for path, md5 in (data.get("dvc") or {}).items()),
        *((what, _counted(data[what])) for what in ("pictures", "captions") if what in data),
        ("trained on", f"{facts['training_pictures']} pictures" if facts["training_pictures"] else "unknown"),
        *(("base", _base(base)) for base in facts["bases"]),
        *((f"metric, {entry['shown']}", _metric(entry)) for entry in (facts.get("metrics") or {}).values()),
        ("made with", ", ".join(f"{name} {number}" for name, number in facts["versions"].items())),
        ("on", facts["machine"]),
    ]
    if facts.get("doubt"):
        rows.append(("doubt", facts["doubt"]))
    rows += [
        (f"{section}.{name}", "none" if value is None else str(value))
        for section, values in facts["settings"].items()
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
