"""The two sides of a session: versions or runs, with the captions that they wrote for the same test pictures."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.page.judge.session import MOST_PAIRS, Pair, pairs_of
from imagecap.page.registered import Registered, Version


def sides(registered: Registered) -> dict[str, Any]:
    """The versions and runs that can be judged, as JSON values with what each is called (`side`)."""
    return {
        "versions": [
            {
                "side": version.uri,
                "number": version.number,
                "aliases": list(version.aliases),
                "created": version.created,
            }
            for version in registered.versions()
        ],
        "runs": [{"side": run.run, "title": run.title, "created": run.created} for run in registered.runs()],
    }


def captions_of_sides(registered: Registered, baseline: str, candidate: str) -> tuple[tuple[Pair, ...], int]:
    """Return the pairs of captions of two sides, without pictures that a version was trained on.

    The captions are those of the evaluations that were stored with the two. Where one is missing, or they have no
    picture in common that is among the test pictures now, both versions caption the test pictures, which takes minutes.

    Args:
        registered: versions and runs.
        baseline: `models:/NAME/VERSION` or a run.
        candidate: likewise.

    Returns:
        The pairs of different captions, and the number of pictures with equal ones.

    Raises:
        ImageCapError: a side is unknown, both are the same, or there are no captions to compare.
    """
    if baseline == candidate:
        raise ImageCapError("choose two different versions or runs")
    versions = {version.uri: version for version in registered.versions()}
    runs = {run.run for run in registered.runs()}
    for side in (baseline, candidate):
        if side not in versions and side not in runs:
            raise ImageCapError(f"there is no version or run {side!r} with an evaluation")
    chosen = [versions[side] for side in (baseline, candidate) if side in versions]
    seen = _trained_on(registered, chosen)
    stored = [_stored(registered, versions[side].run if side in versions else side) for side in (baseline, candidate)]
    if all(stored):
        pairs, equal = pairs_of(_kept(registered, stored[0], seen), _kept(registered, stored[1], seen))
        if pairs or equal:
            return tuple(pairs), equal
    if len(chosen) < 2:
        raise ImageCapError(
            "the evaluations of the two have none of today's test pictures in common, and only registered versions can "
            "caption them anew: choose two versions"
        )
    pairs, equal = pairs_of(*_captioned_now(registered, chosen, seen))
    return tuple(pairs), equal


def number_of_pairs(value: object) -> int:
    """Check the number of pairs that somebody wants to judge.

    Raises:
        ImageCapError: it is no whole number in 1..`MOST_PAIRS`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PAIRS:
        raise ImageCapError(f"the number of pictures must be a whole number from 1 to {MOST_PAIRS}")
    return value


def seed_of(value: object) -> int | None:
    """Check a seed that somebody gives; None draws one.

    Raises:
        ImageCapError: it is no whole number in 0..2^53 - 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ImageCapError("the seed must be a whole number from 0 to 2^53 - 1, or be left out")
    return value


def _stored(registered: Registered, run: str) -> Mapping[str, Any]:
    try:
        return registered.evaluation(run) if run else {}
    except ImageCapError:
        return {}


def _trained_on(registered: Registered, versions: list[Version]) -> set[str]:
    from imagecap.registry.lineage import training_pictures

    found: set[str] = set()
    for version in versions:
        with suppress(ImageCapError):  # registered by other means, it does not say what it was trained on
            found |= training_pictures(registered.client, version.name, version.number) or set()
    return found


def _kept(registered: Registered, evaluation: Mapping[str, Any], seen: set[str]) -> dict[str, Any]:
    """The rows of an evaluation whose pictures are at hand, and not among those of the trainings."""
    return {
        "results": [
            row
            for row in evaluation["results"]
            if row.get("digest") not in seen
            and registered.location(str(row.get("digest") or ""), str(row["image"])) is not None
        ]
    }


def _captioned_now(registered: Registered, versions: list[Version], seen: set[str]) -> list[dict[str, Any]]:
    from imagecap.eval.items import items_of
    from imagecap.registry.rescoring import caption_items, results_of

    samples = [sample for sample in registered.test_samples() if sample.captions and sample.digest not in seen]
    if not samples:
        raise ImageCapError("no test picture is left to caption: there are none, or a version was trained on each")
    settings = registered.settings
    items = items_of(samples, settings.generate.prompt)
    digests = {sample.path: sample.digest for sample in samples}
    return [results_of(items, caption_items(version.uri, items), digests, settings.evaluate) for version in versions]
