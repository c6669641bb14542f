"""Promotion: a new version becomes the champion only if a paired comparison on the test pictures finds it better.

A decision is stored in tags of the version before an alias moves. After an interruption, the next call finds it there
and moves the alias; a decision that was made on the same grounds is not made again. An alias moves only if the champion
is still the one that the decision was made against: other machines may use the same registry.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagecap.config import PromoteSettings, Settings
from imagecap.data.identity import folder_digest
from imagecap.errors import ImageCapError
from imagecap.eval.verdicts import verdict
from imagecap.registry.alias_lock import alias_lock
from imagecap.registry.lineage import (
    CHAMPION,
    COMPARED_WITH,
    COMPARISON,
    DECISION,
    DECISION_KEY,
    PREVIOUS_CHAMPION,
    REASON,
    ROLLED_BACK,
    champion_of,
    training_pictures,
    version_numbers,
)
from imagecap.registry.preference import apply_preference, preference_over
from imagecap.report.formatting import metric_label

CHALLENGER = "challenger"
"""Alias of the newest version that was compared with the champion and not found better."""
_TAG_CHARACTERS = 4000  # MLflow's limit is 5000


@dataclass(frozen=True)
class Decision:
    """Decision about the promotion of a version.

    Attributes:
        promoted: whether the version becomes the champion.
        reason: a sentence.
        comparison: `Comparison.to_dict` of the champion with the version; None if they were not compared.
    """

    promoted: bool
    reason: str
    comparison: dict[str, Any] | None = None


def decide(
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
    """Decide whether a version becomes the champion, unless this was decided before, and set its tags and alias.

    Args:
        client: MLflow's client.
        name: registered model.
        number: version.
        checkout: checkout whose test pictures the versions are compared on.
        settings: the sections data, generate, evaluate and promote are used.
        force: True makes it the champion, False makes it the challenger, None applies the rule.
        doubt: why its own metrics cannot be trusted, which rules out promotion.
        move: False stores the decision and leaves the aliases to the next call.
    """
    while True:
        champion = champion_of(client, name)
        if champion == number and force is None:
            return Decision(True, client.get_model_version(name, number).tags.get(REASON, "it is the champion"))
        key = _decision_key(client, name, number, champion, checkout, settings)
        decision = _decide(client, name, number, champion, key, checkout, settings, force, doubt)
        _write_tags(client, name, number, champion, decision, key)
        if not move:
            return decision
        with alias_lock(client, name):
            if champion_of(client, name) == champion:  # else another machine has promoted a version meanwhile
                _move_alias(client, name, number, champion, decision)
                return decision


def _decide(
    client: Any,
    name: str,
    number: str,
    champion: str | None,
    key: str,
    checkout: Path | None,
    settings: Settings,
    force: bool | None,
    doubt: str | None,
) -> Decision:
    """Return the decision about a version beside this champion, which may have been stored before under `key`."""
    tags = client.get_model_version(name, number).tags
    if force is not None:
        return Decision(force, "by --promote" if force else "by --no_promote")
    if ROLLED_BACK in tags:
        return Decision(False, tags[ROLLED_BACK])
    if doubt is not None:
        return Decision(False, f"{doubt}; run `dvc repro`, or promote it anyway with --promote")
    if champion is None:
        return Decision(True, "the first version")
    if tags.get(DECISION_KEY) == key:
        known = json.loads(tags.get(COMPARISON, "null"))
        return Decision(tags.get(DECISION) == CHAMPION, tags.get(REASON, ""), known)
    decision = compare_with_champion(client, name, champion, number, checkout, settings)
    pictures = settings.promote.judged_pictures
    if not decision.promoted or not pictures:
        return decision
    preferred, why = apply_preference(preference_over(client, name, number, champion), pictures, champion)
    return replace(decision, promoted=preferred, reason=f"{decision.reason}; {why}")


def apply_rule(comparison: Mapping[str, Any], rule: PromoteSettings) -> Decision:
    """Apply the promotion rule to a comparison of the champion (baseline) with a new version (candidate).

    The metric is looked at in each language. In at least one, the candidate must be better by more than
    `minimum_difference`; in none may it be worse, that is, have a confidence interval entirely below zero.
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
    summary = "; ".join(
        f"{metric_label(name, shown)} {entry['baseline']:.3f} → {entry['candidate']:.3f} "
        f"({entry['difference']:+.3f}, 95 % {entry['low']:+.3f} to {entry['high']:+.3f})"
        for name, entry in found.items()
    )
    summary = f"{summary} on {comparison['n']} captions"
    edge = "low" if rule.require_interval else "difference"
    better = [name for name, entry in found.items() if entry[edge] > rule.minimum_difference]
    worse = [name for name, entry in found.items() if verdict(entry["low"], entry["high"]) == "worse"]
    if better and not worse:
        return Decision(True, summary, dict(comparison))
    bound = "the low end of the interval" if rule.require_interval else "the difference"
    why = f"{metric_label(worse[0], shown)} is worse" if worse else f"{bound} must be above {rule.minimum_difference:g}"
    return Decision(False, f"{summary}: {why}", dict(comparison))


def roll_back(client: Any, name: str, to: str | None = None) -> tuple[str, str]:
    """Make an earlier version the champion again. The current one is not promoted again, except by `--promote`.

    Args:
        client: MLflow's client.
        name: registered model.
        to: version; None for the previous champion.

    Returns:
        The former and the new champion.

    Raises:
        ImageCapError: there is no champion, no such version, or no previous champion.
    """
    if champion_of(client, name) is None:
        raise ImageCapError(f"{name} has no champion to roll back; `python run.py register` registers a model")
    with alias_lock(client, name):
        return _roll_back(client, name, to)


def _roll_back(client: Any, name: str, to: str | None) -> tuple[str, str]:
    from mlflow.exceptions import MlflowException

    champion = champion_of(client, name)
    if champion is None:
        raise ImageCapError(f"{name} has no champion to roll back; `python run.py register` registers a model")
    target = to or client.get_model_version(name, champion).tags.get(PREVIOUS_CHAMPION)
    if target is None:
        raise ImageCapError(
            f"version {champion} of {name} has no champion before it; name one with --to VERSION "
            f"(there are {', '.join(version_numbers(client, name))})"
        )
    if target == champion:
        raise ImageCapError(f"version {champion} of {name} is the champion already")
    try:
        entry = client.get_model_version(name, target)
    except MlflowException:
        raise ImageCapError(
            f"{name} has no version {target}; there are {', '.join(version_numbers(client, name))}"
        ) from None
    when = time.strftime("%Y-%m-%d %H:%M")
    why = f"rolled back to version {target} on {when}"
    for tag, value in ((ROLLED_BACK, why), (DECISION, CHALLENGER), (REASON, why)):
        client.set_model_version_tag(name, champion, tag, value)
    if ROLLED_BACK in entry.tags:
        client.delete_model_version_tag(name, target, ROLLED_BACK)
    client.set_model_version_tag(name, target, DECISION, CHAMPION)
    client.set_registered_model_alias(name, CHAMPION, target)
    return champion, target


def prunable_versions(client: Any, name: str, keep: int | None) -> list[str]:
    """Return the versions that may be deleted.

    The `keep` newest stay, those with an alias, and the previous champion, which a rollback needs. None keeps all.
    """
    if keep is None:
        return []
    used = {str(number) for number in client.get_registered_model(name).aliases.values()}
    champion = champion_of(client, name)
    if champion is not None:
        used.add(client.get_model_version(name, champion).tags.get(PREVIOUS_CHAMPION, champion))
    return [number for number in version_numbers(client, name)[:-keep] if number not in used]


def compare_with_champion(
    client: Any, name: str, champion: str, number: str, checkout: Path | None, settings: Settings
) -> Decision:
    """Compare a version with the champion on the test pictures of a checkout, and apply the rule."""
    from imagecap.registry.rescoring import compare_versions

    if checkout is None:
        return Decision(False, "outside a checkout there are no test pictures to compare on")
    try:
        if training_pictures(client, name, number) is None:
            return Decision(False, "it does not say which pictures it was trained on; train it anew")
        comparison = compare_versions(client, name, champion, number, checkout, settings)
    except ImageCapError as error:
        return Decision(False, f"it could not be compared with version {champion}: {error}")
    return apply_rule(comparison.to_dict(), settings.promote)


def _write_tags(client: Any, name: str, number: str, champion: str | None, decision: Decision, key: str) -> None:
    """Store a decision. The tags must be written before the alias moves; see the module's docstring."""
    tags = {REASON: decision.reason[:_TAG_CHARACTERS], DECISION: CHAMPION if decision.promoted else CHALLENGER}
    if champion is not None and champion != number:
        tags[COMPARED_WITH] = champion
        if decision.promoted:
            tags[PREVIOUS_CHAMPION] = champion
    if decision.comparison is not None:
        tags[COMPARISON] = json.dumps(_numbers_of(decision.comparison))
        tags[DECISION_KEY] = key
    for tag, value in tags.items():
        client.set_model_version_tag(name, number, tag, value)


def _move_alias(client: Any, name: str, number: str, champion: str | None, decision: Decision) -> None:
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


def _numbers_of(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a comparison; the whole would exceed MLflow's limit for a tag."""
    return {
        "n": comparison["n"],
        "changes": {
            name: {key: value for key, value in entry.items() if isinstance(value, int | float)}
            for name, entry in comparison["changes"].items()
        },
    }


def _decision_key(
    client: Any, name: str, number: str, champion: str | None, checkout: Path | None, settings: Settings
) -> str:
    folder = checkout / "prepared" / "test" if checkout is not None else None
    pictures = folder_digest(folder) if folder is not None and folder.is_dir() else ""
    rule = settings.promote.model_dump(exclude={"kept_versions", "judged_pictures"})
    grounds: list[Any] = [champion, rule, settings.generate.prompt]
    if settings.promote.judged_pictures and champion is not None:
        grounds += [settings.promote.judged_pictures, preference_over(client, name, number, champion)]
    facts = json.dumps(grounds, sort_keys=True)
    return hashlib.sha256(f"{facts}{pictures}".encode()).hexdigest()
