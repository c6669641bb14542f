"""The truth of sample scenes: whether a caption states exactly what its drawn picture shows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imagecap.errors import ImageCapError
from imagecap.eval.bootstrap import Interval, share_interval
from imagecap.eval.items import Item
from imagecap.eval.scenes.phrases import COUNT_EN
from imagecap.eval.scenes.reading import LANGUAGES, is_true
from imagecap.eval.scenes.scene_string import parse_scene_string

Bools = NDArray[np.bool_]

SCENE_COLUMN = "scene"
COMPOSITION_COLUMN = "composition"
HELD_OUT = "held-out"


def has_truth(items: Sequence[Item]) -> bool:
    """Whether the scene of every item is known and captions in its language can be read."""
    return bool(items) and all(
        item.language in LANGUAGES and isinstance(item.extra.get(SCENE_COLUMN), str) for item in items
    )


def judge(items: Sequence[Item], captions: Sequence[str]) -> Bools:
    """Judge whether each caption states exactly the objects, colours, counts and relation of its scene.

    Args:
        items: items for which `has_truth` holds.
        captions: one caption per item.

    Returns:
        The verdicts. `[items]`

    Raises:
        ImageCapError: a column `scene` does not hold a scene.
    """
    verdicts = np.zeros(len(items), bool)
    for place, (item, caption) in enumerate(zip(items, captions, strict=True)):
        try:
            scene = parse_scene_string(item.extra[SCENE_COLUMN])
        except ValueError as error:
            raise ImageCapError(f"{item.image}: column scene: {error}") from error
        verdicts[place] = is_true(caption, str(item.language), scene.groups, scene.relation)
    return verdicts


def scene_words(item: Item) -> dict[str, frozenset[str]]:
    """The objects, colours, and counts above one of an item's scene, in the words of `word_classes`."""
    groups = parse_scene_string(item.extra[SCENE_COLUMN]).groups
    return {
        "objects": frozenset(group.kind for group in groups),
        "colours": frozenset(group.colour for group in groups),
        "counts": frozenset(COUNT_EN[group.count] for group in groups if group.count > 1),
    }


def truth_shares(items: Sequence[Item], verdicts: Bools) -> dict[str, tuple[float, Interval, int]]:
    """Count true captions: of all pictures, and apart those with colour-object pairs that training never showed.

    Returns:
        By name the share, its 95 % interval and the number of pictures. Groups without pictures are left out.
    """
    held_out = np.fromiter((item.extra.get(COMPOSITION_COLUMN) == HELD_OUT for item in items), bool, len(items))
    groups = {"true_share": np.ones(len(items), bool)}
    if held_out.any():
        groups |= {"true_share_seen": ~held_out, "true_share_held_out": held_out}
    result = {}
    for name, picked in groups.items():
        count, right = int(picked.sum()), int(verdicts[picked].sum())
        if count:
            result[name] = (right / count, share_interval(right, count), count)
    return result
