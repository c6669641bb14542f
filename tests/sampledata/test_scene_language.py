import random
from dataclasses import replace
from typing import Literal

import pytest

from imagecap.eval.scenes.reading import is_true, read_caption
from imagecap.eval.scenes.scene_string import parse_scene_string, scene_string
from imagecap.eval.scenes.world import COLOURS, HELD_OUT_PAIRS, KINDS, Group, Scene
from sampledata.scenes.layout import sample_scene
from sampledata.scenes.writing import captions


def scenes(n: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, held_out=number % 4 == 0) for number in range(n)]


def wrong_truths(scene: Scene, rng: random.Random) -> list[tuple[tuple[Group, ...], str | None]]:
    """The scene's truth with one fact changed, each fact in turn."""
    found: list[tuple[tuple[Group, ...], str | None]] = []
    for place, group in enumerate(scene.groups):
        others = [
            replace(group, count=rng.choice([n for n in (1, 2, 3, 4) if n != group.count])),
            replace(group, colour=rng.choice([c.name for c in COLOURS if c.name != group.colour])),
            replace(group, kind=rng.choice([k.name for k in KINDS if k.name not in {g.kind for g in scene.groups}])),
        ]
        for other in others:
            groups = list(scene.groups)
            groups[place] = other
            found.append((tuple(groups), scene.relation))
    if scene.relation is None:
        extra = Group(1, "red", "car" if scene.groups[0].kind != "car" else "dog")
        found.append(((*scene.groups, extra), "left of"))
    else:
        found.extend((scene.groups, other) for other in ("left of", "right of", "above", "below"))
        found.remove((scene.groups, scene.relation))
        found.append(((scene.groups[1], scene.groups[0]), scene.relation))
        found.extend(((group,), None) for group in scene.groups)
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_caption_reads_back_as_its_scene(language: Literal["en", "zh"]) -> None:
    rng = random.Random(1)
    for scene in scenes(2000):
        for text in captions(scene, language, rng, 3):
            assert is_true(text, language, scene.groups, scene.relation), (scene_string(scene), text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_any_single_wrong_fact_is_caught(language: Literal["en", "zh"]) -> None:
    rng = random.Random(2)
    for scene in scenes(500, seed=3):
        text = captions(scene, language, rng, 1)[0]
        for groups, relation in wrong_truths(scene, rng):
            assert not is_true(text, language, groups, relation), (groups, relation, text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_captions_are_distinct_and_varied(language: Literal["en", "zh"]) -> None:
    scene = next(scene for scene in scenes(50) if len(scene.groups) == 2)
    found = captions(scene, language, random.Random(0), 40)
    assert len(set(found)) == 40
    assert captions(scene, language, random.Random(0), 40) == found


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("A red cars in a meadow.", "en"),
        ("Two red car in a meadow.", "en"),
        ("An red car.", "en"),
        ("A orange car.", "en"),
        ("A car in a meadow.", "en"),
        ("A red car and a blue dog.", "en"),
        ("A red car to the left of a blue dog above a green tree.", "en"),
        ("A red car to the left of.", "en"),
        ("A red car on the left and a blue dog on the left, in a city.", "en"),
        ("一棵红色的汽车在城市里。", "zh"),
        ("红色的汽车在城市里。", "zh"),
        ("城市里有一辆红色的汽车和一只蓝色的狗。", "zh"),
        ("城市里，左边是一辆红色的汽车，左边是一只蓝色的狗。", "zh"),
    ],
)
def test_incomplete_or_malformed_captions_are_not_read(text: str, language: Literal["en", "zh"]) -> None:
    assert read_caption(text, language) is None


def test_both_directions_are_the_same_fact() -> None:
    one = read_caption("Two red cars to the left of an orange bird.", "en")
    other = read_caption("An orange bird on the right of two red cars in the snow.", "en")
    assert one == other == read_caption("雪地里，一只橙色的鸟在两辆红色汽车的右边。", "zh")


def test_scene_string_round_trip() -> None:
    for scene in scenes(200):
        truth = parse_scene_string(scene_string(scene))
        assert (truth.groups, truth.relation, truth.place, truth.night) == (
            scene.groups,
            scene.relation,
            scene.place,
            scene.night,
        )
    with pytest.raises(ValueError, match="5 red car"):
        parse_scene_string("5 red car | meadow | day")


def test_layout_keeps_its_promises() -> None:
    for scene in scenes(1500, seed=5):
        first = [thing for thing in scene.things if thing.kind == scene.groups[0].kind]
        second = [thing for thing in scene.things if thing.kind != scene.groups[0].kind]
        assert [group.count for group in scene.groups] == [len(part) for part in (first, second) if part]
        for thing in scene.things:
            half = thing.size / 2
            assert half <= thing.x <= 1 - half
            assert half <= thing.y <= 1 - half
        if scene.relation == "left of":
            assert max(t.x + t.size / 2 for t in first) < min(t.x - t.size / 2 for t in second)
        elif scene.relation == "below":
            assert min(t.y for t in first) > max(t.y for t in second)


def test_held_out_pairs_appear_only_where_asked_for() -> None:
    rng = random.Random(9)
    for held_out in (False, True):
        for _ in range(500):
            scene = sample_scene(rng, held_out)
            assert any((group.colour, group.kind) in HELD_OUT_PAIRS for group in scene.groups) == held_out
