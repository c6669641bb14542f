"""What people prefer, as blind judgments found it: recorded in MLflow, and asked for by a promotion."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagecap.config import Settings
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json
from imagecap.registry.lineage import resolve_version
from imagecap.registry.store import get_or_create_experiment
from imagecap.registry.tracking import is_active_run, source_tags

PREFERENCE = "imagecap.preference"
"""Tag of a version: how often it was preferred to another one, whose number follows after a full stop."""


def log_preference(client: Any, settings: Settings, result: Mapping[str, Any], run_id: str | None = None) -> str:
    """Log the result of a session of judgments as an MLflow run, and write it into tags of the two versions.

    Args:
        client: MLflow's client.
        settings: its experiment is used.
        result: `session`, `baseline`, `candidate` (model URIs or runs), `together`, `judges` and `agreement`.
        run_id: the run of an earlier call for the same session, which is continued.

    Returns:
        The id of the run.
    """
    together = result["together"]
    if not together["pictures"]:
        raise ImageCapError("nothing was judged yet, so that there is nothing to log")
    if run_id is None or not is_active_run(client, run_id):
        experiment = get_or_create_experiment(client, settings.tracking.experiment_name)
        tags = {
            **source_tags(),
            "imagecap.judged": f"{result['baseline']} and {result['candidate']}",
            "imagecap.session": str(result["session"]),
        }
        run_id = str(client.create_run(experiment, run_name=f"judge {result['session']}", tags=tags).info.run_id)
    numbers = {
        f"preference/{name}": together[name]
        for name in ("share", "low", "high", "p_value", "pictures", "candidate", "baseline", "both", "neither", "split")
    } | {"preference/judges": len(result["judges"]), "preference/kappa": result["agreement"]["kappa"]}
    judgments = sum(each["pictures"] for each in result["judges"].values())
    for name, value in numbers.items():
        if value is not None:
            client.log_metric(run_id, name, float(value), step=judgments)
    with tempfile.TemporaryDirectory(prefix="imagecap-") as folder:
        file = Path(folder) / "preference.json"
        atomic_write_json(file, dict(result))
        client.log_artifact(run_id, str(file), "judge")
    client.set_terminated(run_id)
    _tag_versions(client, result, run_id)
    return run_id


def preference_over(client: Any, name: str, number: str, other: str) -> dict[str, Any] | None:
    """Return how often a version was preferred to another one; None if nobody has judged the two.

    Returns:
        `pictures`, `preferred`, `other`, `low`, `high`, `p_value`, `judges` and `run`.
    """
    text = client.get_model_version(name, number).tags.get(f"{PREFERENCE}.{other}")
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def apply_preference(found: Mapping[str, Any] | None, pictures: int, champion: str) -> tuple[bool, str]:
    """Apply the part of the promotion rule that asks people.

    Args:
        found: result of `preference_over` for the new version and the champion.
        pictures: number of pictures that must have been judged.
        champion: its number, for the sentence.

    Returns:
        Whether the new version may be promoted, and a sentence.
    """
    judged = int(found["pictures"]) if found else 0
    if found is None or judged < pictures:
        return False, (
            f"{judged} of {pictures} pictures were judged between it and version {champion}: judge them with "
            "`python run.py page`, log the result there, and register again"
        )
    decided = found["preferred"] + found["other"]
    summary = (
        f"preferred on {found['preferred']} of {decided} pictures that were not tied "
        f"(95 % {100 * found['low']:.0f} to {100 * found['high']:.0f} %)"
    )
    if found["low"] > 0.5:
        return True, summary
    return False, f"{summary}: the low end of the interval must be above 50 %"


def _tag_versions(client: Any, result: Mapping[str, Any], run_id: str) -> None:
    """Write the preference into tags of both versions, each from its side; not where two runs were judged."""
    try:
        name, baseline = resolve_version(client, result["baseline"])
        other_name, candidate = resolve_version(client, result["candidate"])
    except ImageCapError:
        return
    if name != other_name:
        return
    together = result["together"]
    facts = {
        "pictures": together["pictures"],
        "p_value": together["p_value"],
        "judges": len(result["judges"]),
        "run": run_id,
    }
    low, high = together["low"], together["high"]
    sides = (
        (candidate, baseline, "candidate", "baseline", low, high),
        (baseline, candidate, "baseline", "candidate", 1 - high, 1 - low),
    )
    for number, other, own, theirs, lowest, highest in sides:
        value = facts | {"preferred": together[own], "other": together[theirs], "low": lowest, "high": highest}
        client.set_model_version_tag(name, number, f"{PREFERENCE}.{other}", json.dumps(value))
