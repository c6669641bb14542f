"""What people prefer, as blind judgments found it: recorded in MLflow, and asked for by a promotion.

Each session of judgments is a run of its own. The tags of the versions pool all logged sessions of the two, so that
nobody can choose the session that decides: each picture counts once, for the side that more judges prefer. Where a
judge has judged a picture in several sessions, the last session counts.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imagecap.config import Settings
from imagecap.errors import ImageCapError
from imagecap.eval.preference import Choice, joint_preference
from imagecap.files import atomic_write_json, read_json
from imagecap.registry.evaluations import file_of_run
from imagecap.registry.lineage import resolve_version
from imagecap.registry.store import get_or_create_experiment
from imagecap.registry.tracking import is_active_run, source_tags

PREFERENCE = "imagecap.preference"
"""Tag of a version: how often it was preferred to another one, whose number follows after a full stop."""
_RESULT = "judge/preference.json"  # artifact of a run


def log_preference(client: Any, settings: Settings, result: Mapping[str, Any], run_id: str | None = None) -> str:
    """Log the result of a session of judgments as an MLflow run, and pool it with others in tags of the two versions.

    Args:
        client: MLflow's client.
        settings: its experiment is used.
        result: `session`, `baseline`, `candidate` (model URIs or runs), `together`, `judges`, `agreement` and `pairs`
            (`key` and the `choices` of every judge).
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
        file = Path(folder) / Path(_RESULT).name
        atomic_write_json(file, dict(result))
        client.log_artifact(run_id, str(file), str(Path(_RESULT).parent))
    client.set_terminated(run_id)
    _tag_versions(client, result, run_id)
    return run_id


def preference_over(client: Any, name: str, number: str, other: str) -> dict[str, Any] | None:
    """Return how often a version was preferred to another one; None if nobody has judged the two.

    Returns:
        `pictures`, `preferred`, `other`, `low`, `high`, `p_value`, `judges` (their number), and `runs`, those of the
        sessions that are pooled in them.
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
    """Write what all logged sessions say into tags of both versions, each from its side; not where runs were judged."""
    try:
        name, baseline = resolve_version(client, result["baseline"])
        other_name, candidate = resolve_version(client, result["candidate"])
    except ImageCapError:
        return
    if name != other_name:
        return
    earlier = preference_over(client, name, candidate, baseline) or {}
    runs = [run for run in earlier.get("runs", ()) if run != run_id and is_active_run(client, run)]
    results = {run_id: result} | {run: read_json(file_of_run(client, run, _RESULT)) for run in runs}
    judges = _pooled(client, (name, candidate), results.values())
    together = joint_preference(judges)
    facts = {
        "pictures": together.pictures,
        "p_value": together.p_value,
        "judges": len(judges),
        "runs": [*runs, run_id],
    }
    low, high = together.low, together.high
    sides = (
        (candidate, baseline, together.candidate, together.baseline, low, high),
        (baseline, candidate, together.baseline, together.candidate, 1 - high, 1 - low),
    )
    for number, other, own, theirs, lowest, highest in sides:
        value = facts | {"preferred": own, "other": theirs, "low": lowest, "high": highest}
        client.set_model_version_tag(name, number, f"{PREFERENCE}.{other}", json.dumps(value))


def _pooled(
    client: Any, candidate: tuple[str, str], results: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, Choice]]:
    """The choices of all sessions by judge and picture, with `candidate` (name and number) on the candidate's side."""
    swapped: dict[str, Choice] = {"baseline": "candidate", "candidate": "baseline"}
    judges: dict[str, dict[str, Choice]] = {}
    for result in sorted(results, key=lambda each: str(each["session"])):
        same = resolve_version(client, result["candidate"]) == candidate
        for pair in result["pairs"]:
            for judge, choice in pair["choices"].items():
                judges.setdefault(judge, {})[pair["key"]] = choice if same else swapped.get(choice, choice)
    return judges
