"""Sample scenes: their truth is known, so a caption can be called true and complete, or not."""

from collections.abc import Sequence

from imagecap.errors import ImageCapError
from imagecap.eval.bootstrap import Interval, share_interval
from imagecap.eval.items import Item
from imagecap.eval.scenes.language import is_true, parse_scene_string
from imagecap.eval.scenes.phrases import COUNT_EN

SCENE_COLUMN = "scene"
COMPOSITION_COLUMN = "composition"
HELD_OUT = "held-out"


def has_truth(items: Sequence[Item]) -> bool:
    """Whether every item says which scene it shows."""
    return bool(items) and all(isinstance(item.extra.get(SCENE_COLUMN), str) for item in items)


def judge(items: Sequence[Item], captions: Sequence[str]) -> list[bool]:
    """Whether each caption names exactly its scene's things, colours, counts and their relation.

    Raises:
        ImageCapError: a column `scene` holds something else than a scene.
    """
    verdicts = []
    for item, caption in zip(items, captions, strict=True):
        try:
            scene = parse_scene_string(item.extra[SCENE_COLUMN])
        except ValueError as error:
            raise ImageCapError(f"{item.image}: column scene: {error}") from error
        verdicts.append(is_true(caption, "zh" if item.language == "zh" else "en", scene.groups, scene.relation))
    return verdicts


def named_in_scene(item: Item) -> dict[str, frozenset[str]]:
    """The things, colours and counts above one of an item's scene, in the words of `word_classes`."""
    groups = parse_scene_string(item.extra[SCENE_COLUMN]).groups
    return {
        "objects": frozenset(group.kind for group in groups),
        "colours": frozenset(group.colour for group in groups),
        "counts": frozenset(COUNT_EN[group.count] for group in groups if group.count > 1),
    }


def truth_shares(items: Sequence[Item], verdicts: Sequence[bool]) -> dict[str, tuple[float, Interval, int]]:
    """Share of true captions: overall, on colour-object pairs seen in training, and on pairs kept out of it.

    Returns:
        Per name the share, its 95 % interval and the number of pictures; empty groups are left out.
    """
    held_out = [item.extra.get(COMPOSITION_COLUMN) == HELD_OUT for item in items]
    groups = {"true_share": [True] * len(items)}
    if any(held_out):
        groups["true_share_seen"] = [not each for each in held_out]
        groups["true_share_held_out"] = held_out
    result = {}
    for name, chosen in groups.items():
        picked = [verdict for verdict, use in zip(verdicts, chosen, strict=True) if use]
        if picked:
            result[name] = (sum(picked) / len(picked), share_interval(sum(picked), len(picked)), len(picked))
    return result
