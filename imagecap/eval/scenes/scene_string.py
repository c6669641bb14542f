"""The scene string: the truth of a sample scene in one line, as the column `scene` of captions.json holds it."""

from dataclasses import dataclass

from imagecap.eval.scenes.phrases import COLOUR, INVERSE, KIND, PLACE
from imagecap.eval.scenes.world import MAX_COUNT, Group, Scene


@dataclass(frozen=True)
class Truth:
    """The contents of a scene string: a `Scene` without what only its drawing needs."""

    groups: tuple[Group, ...]
    relation: str | None
    place: str
    night: bool


def scene_string(scene: Scene | Truth) -> str:
    """Write a scene as one line, such as `2 red car | left of | 1 green tree | meadow | night`."""
    parts = [f"{group.count} {group.colour} {group.kind}" for group in scene.groups]
    if scene.relation is not None:
        parts.insert(1, scene.relation)
    return " | ".join([*parts, scene.place, "night" if scene.night else "day"])


def parse_scene_string(line: str) -> Truth:
    """Read what `scene_string` wrote.

    Raises:
        ValueError: the line is no scene string; the message names the wrong part.
    """
    parts = [part.strip() for part in line.split("|")]
    if len(parts) not in (3, 5):
        raise ValueError(f"scene {line!r}: expected 3 or 5 parts between '|', found {len(parts)}")
    relation = parts.pop(1) if len(parts) == 5 else None
    *groups, place, time = parts
    if relation is not None and relation not in INVERSE:
        raise ValueError(f"scene {line!r}: unknown relation {relation!r}")
    if place not in PLACE or time not in ("day", "night"):
        raise ValueError(f"scene {line!r}: unknown place or time {place!r}, {time!r}")
    return Truth(tuple(_parse_group(part, line) for part in groups), relation, place, time == "night")


def _parse_group(part: str, line: str) -> Group:
    words = part.split()
    counts = {str(count): count for count in range(1, MAX_COUNT + 1)}
    if len(words) != 3 or words[0] not in counts or words[1] not in COLOUR or words[2] not in KIND:
        raise ValueError(f"scene {line!r}: unknown group {part!r}; expected e.g. '2 red car'")
    return Group(counts[words[0]], words[1], words[2])
