"""Preferences of people in the registry: logged as a run, in tags of both versions, and asked for by a promotion."""

import json
from pathlib import Path
from typing import Any

import pytest

from imagecap.config import Settings
from imagecap.config.evaluate import PromoteSettings
from imagecap.errors import ImageCapError
from imagecap.eval.preference import Choice, joint_preference, preference_of
from imagecap.registry import promotion
from imagecap.registry.preference import apply_preference, log_preference, preference_over
from imagecap.registry.promotion import Decision, decide
from imagecap.registry.store import connect


def result(
    name: str, preferred: int, other: int, ties: int = 0, *, judge: str = "ann", first: int = 0, **changes: str
) -> dict[str, Any]:
    """A session in which somebody has judged pictures from `first` on, and preferred the candidate to the other."""
    counts: dict[Choice, int] = {"candidate": preferred, "baseline": other, "both": ties}
    choices = [choice for choice, count in counts.items() for _ in range(count)]
    judges = {judge: {str(place): choice for place, choice in enumerate(choices, first)}}
    return {
        "session": "20260101-000000",
        "baseline": f"models:/{name}/1",
        "candidate": f"models:/{name}/2",
        "together": joint_preference(judges).to_dict(),
        "judges": {judge: preference_of(choices).to_dict()},
        "agreement": {"kappa": None},
        "pairs": [{"key": key, "choices": {judge: choice}} for key, choice in judges[judge].items()],
        **changes,
    }


@pytest.fixture
def client(place: Path, request: pytest.FixtureRequest) -> Any:
    found = connect()
    name = request.node.name
    found.create_registered_model(name)
    for _ in range(2):
        found.create_model_version(name, str(place))
    return found


def test_result_is_a_run_and_a_tag_of_both_versions(client: Any, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    run = log_preference(client, Settings(), result(name, 18, 4, 8))
    logged = client.get_run(run)
    assert logged.data.metrics["preference/share"] == pytest.approx(18 / 22)
    assert logged.data.metrics["preference/pictures"] == 30
    assert "preference/kappa" not in logged.data.metrics
    assert logged.data.tags["imagecap.judged"] == f"models:/{name}/1 and models:/{name}/2"
    assert logged.info.status == "FINISHED"
    stored = json.loads(Path(client.download_artifacts(run, "judge/preference.json")).read_text(encoding="utf-8"))
    assert stored == result(name, 18, 4, 8)
    new, old = preference_over(client, name, "2", "1"), preference_over(client, name, "1", "2")
    assert new is not None
    assert old is not None
    assert (new["preferred"], new["other"], new["runs"]) == (18, 4, [run])
    assert (old["preferred"], old["other"]) == (4, 18)
    assert (old["low"], old["high"]) == pytest.approx((1 - new["high"], 1 - new["low"]))
    # more judgments of the same session continue the run
    assert log_preference(client, Settings(), result(name, 20, 4, 8), run) == run
    again = preference_over(client, name, "2", "1")
    assert again is not None
    assert again["preferred"] == 20
    assert preference_over(client, name, "2", "9") is None


def test_sessions_of_two_versions_are_pooled(client: Any, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    first = log_preference(client, Settings(), result(name, 12, 3))

    def found() -> tuple[int, int, int, int]:
        told = preference_over(client, name, "2", "1")
        assert told is not None
        return told["preferred"], told["other"], told["pictures"], told["judges"]

    # five pictures again by Ann, of which the later session counts, and ten others; the versions have changed sides
    swapped = {"baseline": f"models:/{name}/2", "candidate": f"models:/{name}/1", "session": "20260102-000000"}
    second = log_preference(client, Settings(), result(name, 15, 0, first=10) | swapped)
    assert found() == (10, 15, 25, 1)
    # Ben thinks otherwise about two pictures, which are split
    third = log_preference(client, Settings(), result(name, 0, 2, judge="ben", session="20260103-000000"))
    assert found() == (8, 15, 25, 2)
    old = preference_over(client, name, "1", "2")
    assert old is not None
    assert (old["preferred"], old["other"], old["runs"]) == (15, 8, [first, second, third])
    # a run that was deleted counts no more, and one that goes on counts once
    client.delete_run(second)
    log_preference(client, Settings(), result(name, 13, 3), first)
    assert found() == (11, 3, 16, 2)


def test_runs_are_logged_without_tags_and_nothing_is_refused(client: Any, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    runs = result(name, 3, 1) | {"baseline": "0" * 32, "candidate": "1" * 32}
    assert client.get_run(log_preference(client, Settings(), runs)).data.metrics["preference/candidate"] == 3
    assert preference_over(client, name, "2", "1") is None
    with pytest.raises(ImageCapError, match="nothing was judged yet"):
        log_preference(client, Settings(), result(name, 0, 0))


def test_promotion_asks_people(client: Any, place: Path, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    settings = Settings(promote=PromoteSettings(judged_pictures=30))
    compared = []

    def better(*arguments: Any) -> Decision:
        compared.append(arguments)
        return Decision(True, "CIDEr is better", {"n": 3, "changes": {}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "compare_with_champion", better)
        assert decide(client, name, "1", place, settings).promoted  # the first version
        for _ in range(2):  # the second time as it was decided before
            waiting = decide(client, name, "2", place, settings)
            assert not waiting.promoted
            assert waiting.reason.startswith("CIDEr is better; 0 of 30 pictures were judged")
        assert len(compared) == 1
        log_preference(client, settings, result(name, 14, 12, 4))
        undecided = decide(client, name, "2", place, settings)
        assert not undecided.promoted
        assert "preferred on 14 of 26 pictures that were not tied" in undecided.reason
        assert "must be above 50 %" in undecided.reason
        log_preference(client, settings, result(name, 40, 4, 6, judge="ben", first=30))
        preferred = decide(client, name, "2", place, settings)
        assert preferred.promoted
        assert "preferred on 54 of 70 pictures" in preferred.reason
        assert str(client.get_model_version_by_alias(name, "champion").version) == "2"


@pytest.mark.parametrize(
    ("found", "promoted", "told"),
    [
        (None, False, "0 of 10 pictures were judged between it and version 3"),
        ({"pictures": 9, "preferred": 9, "other": 0, "low": 0.66, "high": 1}, False, "9 of 10 pictures were judged"),
        ({"pictures": 10, "preferred": 10, "other": 0, "low": 0.69, "high": 1}, True, "95 % 69 to 100 %"),
        ({"pictures": 10, "preferred": 5, "other": 0, "low": 0.47, "high": 1}, False, "must be above 50 %"),
        ({"pictures": 10, "preferred": 0, "other": 0, "low": 0, "high": 1}, False, "0 of 0 pictures"),
    ],
)
def test_rule(found: dict[str, Any] | None, promoted: bool, told: str) -> None:
    decided, reason = apply_preference(found, 10, "3")
    assert decided is promoted
    assert told in reason
