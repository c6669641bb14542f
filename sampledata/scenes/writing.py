"""Captions of scenes in English and Chinese, worded as a person might."""

import random
from typing import Literal

from imagecap.eval.scenes.phrases import (
    INVERSE,
    KIND,
    PLACE,
    RELATION_EN,
    RELATION_ZH,
    SIDE_EN,
    TIME_EN,
    TIME_ZH,
    chinese_group,
    english_group,
    english_kind,
)
from imagecap.eval.scenes.world import Group, Scene


def captions(scene: Scene, language: Literal["en", "zh"], rng: random.Random, n: int) -> list[str]:
    """`n` different captions of a scene, each naming all its objects, colours, counts and their relation."""
    write = _english if language == "en" else _chinese
    found: dict[str, None] = {}
    while len(found) < n:
        found[write(scene, rng)] = None
    return list(found)


def _order(scene: Scene, rng: random.Random) -> tuple[Group, Group, str]:
    """The two groups as they are mentioned, with the relation of the first to the second.

    Like most people, the writer mostly begins on the left or at the top.
    """
    first, second = scene.groups
    assert scene.relation is not None
    if (scene.relation in ("left of", "above")) == (rng.random() < 0.85):
        return first, second, scene.relation
    return second, first, INVERSE[scene.relation]


def _be(group: Group) -> str:
    return "is" if group.count == 1 else "are"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _english(scene: Scene, rng: random.Random) -> str:
    place = PLACE[scene.place].en
    time = rng.choice(TIME_EN[scene.night]) if rng.random() < (0.8 if scene.night else 0.35) else ""
    setting = rng.choice((f"{place} {time}", f"{time} {place}")) if time and rng.random() < 0.3 else f"{place} {time}"
    setting = " ".join(setting.split())
    if len(scene.groups) == 1:
        group = scene.groups[0]
        a, be = english_group(group), _be(group)
        return _sentence(
            rng.choice(
                (
                    f"{a} {setting}",
                    f"there {be} {a} {setting}",
                    f"a picture of {a} {setting}",
                    f"{setting}, there {be} {a}",
                    f"{a} {be} {setting}",
                    f"{a} can be seen {setting}",
                    f"you can see {a} {setting}",
                    f"here {be} {a} {setting}",
                    f"{setting}, you can see {a}",
                    f"just {a}, {setting}",
                )
            )
        )
    first, second, relation = _order(scene, rng)
    a, b, be = english_group(first), english_group(second), _be(first)
    rel = rng.choice(RELATION_EN[relation])
    inverse = INVERSE[relation]
    full = rng.choice(RELATION_EN[inverse][:2])
    its, them = ("its", "it") if first.count == 1 else ("their", "them")
    beside = f"to {its} {inverse.removesuffix(' of')}" if inverse.endswith(" of") else f"{inverse} {them}"
    sides = (SIDE_EN[relation], SIDE_EN[inverse])
    return _sentence(
        rng.choice(
            (
                f"{a} {rel} {b} {setting}",
                f"there {be} {a} {rel} {b} {setting}",
                f"{a} {be} {rel} {b}, {setting}",
                f"{setting}, {a} {be} {rel} {b}",
                f"{setting}, you can see {a} {rel} {b}",
                f"a picture of {a} {rel} {b}, {setting}",
                f"{a} and {b} {setting}, with {english_kind(first)} {sides[0]}",
                f"{a} with {b} {beside}, {setting}",
                f"{a} {sides[0]} and {b} {sides[1]}, {setting}",
                f"{full} {a} {_be(second)} {b}, {setting}",
                f"{setting}, there {be} {a} {rel} {b}",
            )
        )
    )


def _chinese(scene: Scene, rng: random.Random) -> str:
    place = PLACE[scene.place].zh
    time = rng.choice(TIME_ZH[scene.night]) if rng.random() < (0.8 if scene.night else 0.35) else ""
    particle = rng.random() < 0.6
    setting = rng.choice((f"{time}的{place}", f"{time}{place}")) if time else place
    apart = f"{time}，{place}" if time and rng.random() < 0.5 else setting
    if len(scene.groups) == 1:
        a = chinese_group(scene.groups[0], particle)
        return (
            rng.choice(
                (
                    f"{apart}有{a}",
                    f"{setting}，有{a}",
                    f"{a}在{setting}",
                    f"图中{setting}有{a}",
                    f"{apart}可以看到{a}",
                    f"这张图片里，{setting}有{a}",
                    f"画面中是{setting}的{a}",
                    f"{setting}，可以看见{a}",
                    f"这是{setting}的{a}",
                )
            )
            + "。"
        )
    first, second, relation = _order(scene, rng)
    a, b = chinese_group(first, particle), chinese_group(second, particle)
    pick = rng.randrange(2)
    rel, opposite = RELATION_ZH[relation][pick], RELATION_ZH[INVERSE[relation]][pick]
    return (
        rng.choice(
            (
                f"{apart}有{a}，在{b}的{rel}",
                f"{setting}，{a}在{b}的{rel}",
                f"{setting}，{a}的{opposite}有{b}",
                f"{apart}，{rel}是{a}，{opposite}是{b}",
                f"图中{setting}有{a}和{b}，{_noun(first)}在{rel}",
                f"{a}在{b}的{rel}，背景是{_scenery(scene)}",
                f"这张图片里，{setting}，{a}位于{b}的{rel}",
                f"{apart}可以看到{a}在{b}的{rel}",
                f"{setting}，{a}{opposite}是{b}",
                f"{setting}，画面{rel}有{a}，{opposite}有{b}",
            )
        )
        + "。"
    )


def _noun(group: Group) -> str:
    return KIND[group.kind].zh


def _scenery(scene: Scene) -> str:
    """The place as a noun, without the particle that makes it `in` or `on`."""
    return PLACE[scene.place].zh[:-1]
