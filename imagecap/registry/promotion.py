"""Which registered version is `@champion`: a new one only if the paired comparison says that it is better.

Everything is written down as tags of the version before an alias moves, so that an interrupted decision is found and
finished, and a decision that was made is not made again.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.config import PromoteSettings, Settings
from imagecap.errors import ImageCapError
from imagecap.eval.verdicts import verdict
from imagecap.registry.tracking import CHAMPION
from imagecap.report.formatting import metric_label

CHALLENGER = "challenger"
DECISION = "imagecap.decision"  # "champion" or "challenger"
REASON = "imagecap.reason"
KEY = "imagecap.decision_key"  # what the decision was made on; with another it is made again
COMPARED_WITH = "imagecap.compared_with"
COMPARISON = "imagecap.comparison"
PREVIOUS = "imagecap.previous_champion"
ROLLED_BACK = "imagecap.rolled_back"


@dataclass(frozen=True)
class Decision:
    """Whether a version takes the champion's place, why, and by what comparison (`Comparison.to_dict`)."""

    promoted: bool
    reason: str
    comparison: dict[str, Any] | None = None


def settle(
    client: Any,
    name: str,
    number: str,
    checkout: Path | None,
    settings: Settings,
    force: bool | None = None,
    doubt: str | None = None,
    *,
    move: bool = True,
) -> Decision:
    """Decide on a version, unless that was done before, and set its tags and the alias.

    Args:
        client: MLflow's.
        name: registered model.
        number: the version.
        checkout: whose test pictures are compared on.
        settings: the sections data, generate and promote are used.
        force: True makes it champion, False leaves it challenger, None decides by the rule.
        doubt: why its own metrics cannot be trusted: such a version is never promoted.
        move: False writes the decision down and leaves the aliases as they are, for the next call to finish.
    """
    champion = champion_of(client, name)
    tags = client.get_model_version(name, number).tags
    if champion == number and force is None:
        return Decision(True, tags.get(REASON, "it is the champion"))
    key = _key(champion, checkout, settings)
    if force is not None:
        decision = Decision(force, "by --promote" if force else "by --no_promote")
    elif ROLLED_BACK in tags:
        decision = Decision(False, tags[ROLLED_BACK])
    elif doubt is not None:
        decision = Decision(False, f"{doubt}; run `dvc repro`, or promote it anyway with --promote")
    elif champion is None:
        decision = Decision(True, "the first version")
    elif tags.get(KEY) == key:
        known = json.loads(tags.get(COMPARISON, "null"))
        decision = Decision(tags.get(DECISION) == CHAMPION, tags.get(REASON, ""), known)
    else:
        decision = _compared(client, name, champion, number, checkout, settings)
    _write(client, name, number, champion, decision, key)
    if move:
        _move(client, name, number, champion, decision)
    return decision


def judge(comparison: Mapping[str, Any], rule: PromoteSettings) -> Decision:
    """Apply the rule to a comparison of the champion (baseline) with a new version (candidate).

    Of the metric in each language: at least one must be better, by more than `minimum_difference`, and none worse,
    which it is where its whole interval lies below zero.
    """
    found = {
        name: entry
        for name, entry in comparison["changes"].items()
        if rule.promote_metric in {name, name.rpartition("/")[2]}
    }
    if not found:
        known = ", ".join(sorted(comparison["changes"])) or "none"
        return Decision(
            False, f"promote.promote_metric: {rule.promote_metric!r} was not measured; the metrics are: {known}"
        )
    shown = comparison.get("names", {})  # with the tokenizer, which decides what the numbers mean
    told = "; ".join(
        f"{metric_label(name, shown)} {entry['baseline']:.3f} → {entry['candidate']:.3f} "
        f"({entry['difference']:+.3f}, 95 % {entry['low']:+.3f} to {entry['high']:+.3f})"
        for name, entry in found.items()
    )
    told = f"{told} on {comparison['n']} captions"
    edge = "low" if rule.require_interval else "difference"
    better = [name for name, entry in found.items() if entry[edge] > rule.minimum_difference]
    worse = [name for name, entry in found.items() if verdict(entry["low"], entry["high"]) == "worse"]
    if better and not worse:
        return Decision(True, told, dict(comparison))
    asked = "the low end of the interval" if rule.require_interval else "the difference"
    why = f"{metric_label(worse[0], shown)} is worse" if worse else f"{asked} must be above {rule.minimum_difference:g}"
    return Decision(False, f"{told}: {why}", dict(comparison))


def champion_of(client: Any, name: str) -> str | None:
    """The number of the version that has the alias; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def roll_back(client: Any, name: str, to: str | None = None) -> tuple[str, str]:
    """Make an earlier version champion again; the present one will not come back but by `--promote`.

    Args:
        client: MLflow's.
        name: registered model.
        to: the version; None: the one that was champion before.

    Returns:
        the version that was champion, and the one that now is.

    Raises:
        ImageCapError: there is no champion, no such version, or nothing to go back to.
    """
    from mlflow.exceptions import MlflowException

    now = champion_of(client, name)
    if now is None:
        raise ImageCapError(f"{name} has no champion to roll back; `python run.py register` registers a model")
    target = to or client.get_model_version(name, now).tags.get(PREVIOUS)
    if target is None:
        raise ImageCapError(
            f"version {now} of {name} has no champion before it; name one with --to VERSION "
            f"(there are {', '.join(versions(client, name))})"
        )
    if target == now:
        raise ImageCapError(f"version {now} of {name} is the champion already")
    try:
        there = client.get_model_version(name, target)
    except MlflowException:
        raise ImageCapError(f"{name} has no version {target}; there are {', '.join(versions(client, name))}") from None
    when = time.strftime("%Y-%m-%d %H:%M")
    why = f"rolled back to version {target} on {when}"
    for tag, value in ((ROLLED_BACK, why), (DECISION, CHALLENGER), (REASON, why)):
        client.set_model_version_tag(name, now, tag, value)
    if ROLLED_BACK in there.tags:
        client.delete_model_version_tag(name, target, ROLLED_BACK)
    client.set_model_version_tag(name, target, DECISION, CHAMPION)
    client.set_registered_model_alias(name, CHAMPION, target)
    return now, target


def versions(client: Any, name: str) -> list[str]:
    """The numbers of all versions, oldest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return [str(number) for number in sorted(int(entry.version) for entry in found)]


def disposable(client: Any, name: str, keep: int | None) -> list[str]:
    """The versions that may go: not among the `keep` newest, without an alias, and not what a rollback would go to."""
    if keep is None:
        return []
    used = {str(number) for number in client.get_registered_model(name).aliases.values()}
    champion = champion_of(client, name)
    if champion is not None:
        used.add(client.get_model_version(name, champion).tags.get(PREVIOUS, champion))
    return [number for number in versions(client, name)[:-keep] if number not in used]


def _compared(
    client: Any, name: str, champion: str, number: str, checkout: Path | None, settings: Settings
) -> Decision:
    from imagecap.registry.rescoring import compare_versions, training_pictures

    if checkout is None:
        return Decision(False, "outside a checkout there are no test pictures to compare on")
    try:
        if training_pictures(client, name, number) is None:
            return Decision(False, "it does not say which pictures it was trained on; train it anew")
        comparison = compare_versions(client, name, champion, number, checkout, settings)
    except ImageCapError as error:
        return Decision(False, f"it could not be compared with version {champion}: {error}")
    return judge(comparison.to_dict(), settings.promote)


def _write(client: Any, name: str, number: str, champion: str | None, decision: Decision, key: str) -> None:
    """Tags come before the alias: an interruption in between is found by the key and finished the next time."""
    tags = {REASON: decision.reason[:4000], DECISION: CHAMPION if decision.promoted else CHALLENGER}
    if champion is not None and champion != number:
        tags[COMPARED_WITH] = champion
        if decision.promoted:
            tags[PREVIOUS] = champion
    if decision.comparison is not None:
        tags[COMPARISON] = json.dumps(_short(decision.comparison))
        tags[KEY] = key
    for tag, value in tags.items():
        client.set_model_version_tag(name, number, tag, value)


def _move(client: Any, name: str, number: str, champion: str | None, decision: Decision) -> None:
    if decision.promoted:
        aliases = client.get_registered_model(name).aliases
        if ROLLED_BACK in client.get_model_version(name, number).tags:
            client.delete_model_version_tag(name, number, ROLLED_BACK)
        client.set_registered_model_alias(name, CHAMPION, number)
        if str(aliases.get(CHALLENGER)) == number:
            client.delete_registered_model_alias(name, CHALLENGER)
    else:
        client.set_registered_model_alias(name, CHALLENGER, number)
        if champion == number:  # by --no_promote
            client.delete_registered_model_alias(name, CHAMPION)


def _short(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Without what would not fit into a tag."""
    return {
        "n": comparison["n"],
        "changes": {
            name: {key: value for key, value in entry.items() if isinstance(value, int | float)}
            for name, entry in comparison["changes"].items()
        },
    }


def _key(champion: str | None, checkout: Path | None, settings: Settings) -> str:
    file = checkout / "prepared" / "test.jsonl" if checkout is not None else None
    pictures = file.read_bytes() if file is not None and file.is_file() else b""
    rule = settings.promote.model_dump(exclude={"kept_versions"})
    facts = json.dumps([champion, rule, settings.generate.prompt], sort_keys=True)
    return hashlib.sha256(facts.encode() + pictures).hexdigest()
