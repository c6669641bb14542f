"""Who becomes champion: by the rule, once, finished after an interruption, taken back, and what may be deleted."""

import argparse
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from imagecap.commands import rollback
from imagecap.config import PromoteSettings, Settings
from imagecap.errors import ImageCapError
from imagecap.registry import promotion
from imagecap.registry.alias_lock import alias_lock
from imagecap.registry.lineage import PREVIOUS_CHAMPION, REASON, ROLLED_BACK, champion_of
from imagecap.registry.promotion import Decision, apply_rule, decide, prunable_versions, roll_back
from imagecap.registry.store import connect

NAME = "captions"


def entry(difference: float, low: float, high: float) -> dict[str, float]:
    return {"baseline": 1.0, "candidate": 1.0 + difference, "difference": difference, "low": low, "high": high}


@pytest.mark.parametrize(
    ("metrics", "rule", "promoted", "told"),
    [
        ({"CIDEr": entry(0.3, 0.1, 0.5)}, {}, True, r"CIDEr 1\.000 → 1\.300 \(\+0\.300, 95 % \+0\.100 to \+0\.500\)"),
        ({"CIDEr": entry(0.3, -0.1, 0.7)}, {}, False, "low end of the interval must be above 0"),
        ({"CIDEr": entry(0.3, -0.1, 0.7)}, {"require_interval": False}, True, r"\+0\.300"),
        ({"CIDEr": entry(0.3, 0.1, 0.5)}, {"minimum_difference": 0.2}, False, "must be above 0.2"),
        ({"CIDEr": entry(0.0, 0.0, 0.0)}, {}, False, "must be above 0"),
        ({"CIDEr": entry(float("nan"), float("nan"), float("nan"))}, {}, False, "must be above 0"),
        (
            {"en/CIDEr": entry(0.3, 0.1, 0.5), "zh/CIDEr": entry(0.0, -0.1, 0.1)},
            {},
            True,
            r"^CIDEr \(en\) 1.*; CIDEr\[zh-char\] 1",
        ),
        (
            {"en/CIDEr": entry(0.3, 0.1, 0.5), "zh/CIDEr": entry(-0.3, -0.4, -0.1)},
            {},
            False,
            r"CIDEr\[zh-char\] is worse",
        ),
        ({"zh/CIDEr": entry(0.3, 0.1, 0.5)}, {"promote_metric": "en/CIDEr"}, False, "was not measured"),
        ({"Bleu_4": entry(0.3, 0.1, 0.5)}, {}, False, "'CIDEr' was not measured; the metrics are: Bleu_4"),
        ({}, {}, False, "the metrics are: none"),
    ],
)
def test_the_rule(metrics: dict[str, Any], rule: dict[str, Any], promoted: bool, told: str) -> None:
    names = {name: "CIDEr[zh-char]" for name in metrics if name.startswith("zh/")}
    decision = apply_rule({"n": 9, "changes": metrics, "names": names}, PromoteSettings(**rule))
    assert decision.promoted is promoted
    assert re.search(told, decision.reason), decision.reason


class Registry:
    """A registered model of its own, versions without files, and comparisons that say what they are told to."""

    def __init__(self, place: Path, name: str, patch: pytest.MonkeyPatch) -> None:
        self.place, self.name = place, name
        self.client = connect()
        self.client.create_registered_model(name)
        self.compared: list[tuple[str, str]] = []
        self.better = True

        def compared(_client: Any, _name: str, champion: str, number: str, *_rest: Any) -> Decision:
            self.compared.append((champion, number))
            return Decision(self.better, "so it is", {"n": 3, "changes": {"CIDEr": entry(0.3, 0.1, 0.5)}})

        patch.setattr(promotion, "compare_with_champion", compared)

    def add(self) -> str:
        return str(self.client.create_model_version(self.name, str(self.place)).version)

    def decide(self, number: str, force: bool | None = None, doubt: str | None = None) -> Decision:
        return decide(self.client, self.name, number, self.place, Settings(), force, doubt)

    def tags(self, number: str) -> dict[str, str]:
        return dict(self.client.get_model_version(self.name, number).tags)

    @property
    def aliases(self) -> dict[str, str]:
        return {alias: str(number) for alias, number in self.client.get_registered_model(self.name).aliases.items()}


@pytest.fixture
def registry(place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Registry:
    return Registry(place, request.node.name, monkeypatch)


def test_first_better_and_not_better(registry: Registry) -> None:
    first, second, third = (registry.add() for _ in range(3))
    assert registry.decide(first).reason == "the first version"
    assert registry.aliases == {"champion": first}
    assert registry.decide(first).promoted
    assert registry.decide(second).promoted
    assert registry.aliases == {"champion": second}
    assert registry.tags(second)[PREVIOUS_CHAMPION] == first
    registry.better = False
    for _ in range(2):  # what was decided on the same grounds is not compared again
        assert not registry.decide(third).promoted
    assert registry.compared == [(first, second), (second, third)]
    assert registry.aliases == {"champion": second, "challenger": third}
    assert registry.tags(third)[REASON] == "so it is"
    # other test pictures are other grounds
    (registry.place / "prepared" / "test").mkdir(parents=True)
    (registry.place / "prepared" / "test" / "00000.arrow").write_text(registry.name)
    registry.better = True
    assert registry.decide(third).promoted
    assert registry.aliases == {"champion": third}


def test_doubtful_metrics_never_promote(registry: Registry) -> None:
    first, second = registry.add(), registry.add()
    assert not registry.decide(first, doubt="metrics/test.json is missing").promoted
    assert registry.aliases == {"challenger": first}
    assert registry.decide(first).promoted
    assert not registry.decide(second, doubt="metrics/test.json is missing").promoted
    assert registry.tags(second)[REASON].startswith("metrics/test.json is missing")
    assert registry.compared == []
    assert registry.decide(second, force=True).promoted
    assert registry.aliases == {"champion": second}


def test_interrupted_between_tags_and_alias(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = registry.add(), registry.add()
    registry.decide(first)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.decide(second)
    assert registry.aliases == {"champion": first}
    assert registry.decide(second).promoted
    assert registry.compared == [(first, second)], "it was decided already"
    assert registry.aliases == {"champion": second}


def test_rollback(registry: Registry) -> None:
    first, second, third = (registry.add() for _ in range(3))
    with pytest.raises(ImageCapError, match="no champion to roll back"):
        roll_back(registry.client, registry.name)
    for number in (first, second):
        registry.decide(number)
    assert roll_back(registry.client, registry.name) == (second, first)
    assert champion_of(registry.client, registry.name) == first
    with pytest.raises(ImageCapError, match=f"no champion before it; name one with --to VERSION .there are {first}, "):
        roll_back(registry.client, registry.name)
    # registering the same model again must not bring it back
    assert not registry.decide(second).promoted
    assert registry.decide(second).reason.startswith(f"rolled back to version {first}")
    assert registry.decide(third).promoted
    with pytest.raises(ImageCapError, match="has no version 99"):
        roll_back(registry.client, registry.name, "99")
    with pytest.raises(ImageCapError, match="is the champion already"):
        roll_back(registry.client, registry.name, third)
    assert roll_back(registry.client, registry.name, second) == (third, second)
    assert ROLLED_BACK not in registry.tags(second)
    assert registry.decide(third, force=True).promoted
    assert registry.aliases["champion"] == third


def test_what_may_be_deleted(registry: Registry) -> None:
    numbers = [registry.add() for _ in range(6)]
    for number in numbers[:3]:
        registry.decide(number)
    registry.better = False
    registry.decide(numbers[0], force=None)
    assert registry.aliases == {"champion": numbers[2], "challenger": numbers[0]}
    assert prunable_versions(registry.client, registry.name, None) == []
    assert prunable_versions(registry.client, registry.name, 6) == []
    # the first is challenger, the second what a rollback goes to, the third champion
    assert prunable_versions(registry.client, registry.name, 1) == numbers[3:5]


def test_rollback_answers_programs_as_json(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = registry.add(), registry.add()
    for number in (first, second):
        registry.decide(number)
    parser = argparse.ArgumentParser()
    rollback.add_arguments(parser)
    rollback.run(parser.parse_args(["--name", registry.name, "--json"]))
    told = json.loads(capsys.readouterr().out)
    assert told == {"name": registry.name, "version": first, "rolled_back_from": second}


def test_a_champion_of_another_machine_is_compared_with(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine promotes its first version after this one has decided that there is no champion."""
    theirs, ours = registry.add(), registry.add()
    registry.better = False
    write_tags = promotion._write_tags

    def write_after_another(*rest: Any) -> None:
        write_tags(*rest)
        monkeypatch.setattr(promotion, "_write_tags", write_tags)
        assert registry.decide(theirs).reason == "the first version"

    monkeypatch.setattr(promotion, "_write_tags", write_after_another)
    assert registry.decide(ours).reason == "so it is"
    assert registry.compared == [(theirs, ours)]
    assert registry.aliases == {"champion": theirs, "challenger": ours}
    assert registry.client.get_registered_model(registry.name).tags == {}, "no lock is left"


def test_one_process_at_a_time_moves_aliases(registry: Registry) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with alias_lock(registry.client, registry.name):
            inside.append(number)
            time.sleep(0.05)
            most.append(len(inside))
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_the_lock_of_a_killed_process_is_removed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecap.registry.alias_lock._DEAD_SECONDS", 0.5)
    registry.client.set_registered_model_tag(registry.name, "imagecap.moving_aliases.0", "")
    with alias_lock(registry.client, registry.name):
        assert len(registry.client.get_registered_model(registry.name).tags) == 1
