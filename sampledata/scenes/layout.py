"""Random scenes: which things, how many, and where."""

import random

from imagecap.eval.scenes.world import COLOURS, HELD_OUT_PAIRS, KINDS, MAX_COUNT, PLACES, Group, Kind, Scene, Thing

MAX_THINGS = 6
AIR = (0.04, 0.50)
"""Vertical span of the boxes of things in the air."""
GROUND = (0.55, 0.97)
"""Vertical span of the bottom edges of the boxes of things on the ground."""

_MARGIN = 0.02
_GAP = 0.012
# The smallest side is above 1/7: no two things then have their centres in one cell of a 7 × 7 grid.
_SIZES = {1: (0.27, 0.34), 2: (0.22, 0.30), 3: (0.19, 0.25), 4: (0.17, 0.22), 5: (0.16, 0.195), 6: (0.155, 0.18)}
_KIND = {kind.name: kind for kind in KINDS}


def sample_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """Draw a random scene of one group (30 %) or two groups (70 %) of equal things.

    Two groups in the air or two on the ground are side by side; one in the air and one on the ground are one above the
    other. So exactly one relation describes the scene.

    Args:
        rng: source of everything random.
        held_out: at least one group has a (colour, kind) of `HELD_OUT_PAIRS`; otherwise none has.
    """
    while True:
        kinds = _pick_kinds(rng)
        groups = _pick_groups(rng, kinds, held_out)
        if any((group.colour, group.kind) in HELD_OUT_PAIRS for group in groups) != held_out:
            continue
        relation = _pick_relation(rng, kinds)
        for _ in range(20):
            things = _place(rng, groups, relation)
            if things is not None:
                return Scene(
                    groups=groups,
                    relation=relation,
                    place=rng.choice(PLACES).name,
                    night=rng.random() < 0.4,
                    things=things,
                    seed=rng.getrandbits(31),
                )


def _pick_kinds(rng: random.Random) -> tuple[Kind, ...]:
    ground = [kind for kind in KINDS if kind.home == "ground"]
    air = [kind for kind in KINDS if kind.home == "air"]
    if rng.random() < 0.3:
        return (rng.choice(rng.choices((ground, air), (0.7, 0.3))[0]),)
    mix = rng.random()
    if mix < 0.45:
        return tuple(rng.sample(ground, 2))
    if mix < 0.6:
        return tuple(rng.sample(air, 2))
    pair = [rng.choice(ground), rng.choice(air)]
    rng.shuffle(pair)
    return tuple(pair)


def _pick_groups(rng: random.Random, kinds: tuple[Kind, ...], held_out: bool) -> tuple[Group, ...]:
    while True:
        counts = [rng.choices(range(1, MAX_COUNT + 1), (0.37, 0.27, 0.2, 0.16))[0] for _ in kinds]
        if sum(counts) <= MAX_THINGS:
            break
    colours = [rng.choice(COLOURS).name for _ in kinds]
    if held_out:
        chosen = rng.randrange(len(kinds))
        pairs = [colour for colour, kind in sorted(HELD_OUT_PAIRS) if kind == kinds[chosen].name]
        if pairs:
            colours[chosen] = rng.choice(pairs)
    return tuple(Group(count, colour, kind.name) for count, colour, kind in zip(counts, colours, kinds, strict=True))


def _pick_relation(rng: random.Random, kinds: tuple[Kind, ...]) -> str | None:
    if len(kinds) == 1:
        return None
    if kinds[0].home == kinds[1].home:
        return rng.choice(("left of", "right of"))
    return "above" if kinds[0].home == "air" else "below"


def _place(rng: random.Random, groups: tuple[Group, ...], relation: str | None) -> tuple[Thing, ...] | None:
    """Positions of all things; None if this attempt found no room."""
    total = sum(group.count for group in groups)
    spans = [(_MARGIN, 1 - _MARGIN)] * len(groups)
    centre_x: float | None = None
    if relation in ("left of", "right of"):
        share = groups[0].count / total if relation == "left of" else groups[1].count / total
        split = 0.5 + 0.3 * (share - 0.5) + rng.uniform(-0.06, 0.06)
        left, right = (_MARGIN, split - 0.02), (split + 0.02, 1 - _MARGIN)
        spans = [left, right] if relation == "left of" else [right, left]
    elif relation is not None:
        centre_x = rng.uniform(0.3, 0.7)
    things: list[Thing] = []
    for group, span in zip(groups, spans, strict=True):
        members = _cluster(rng, group, span, centre_x, rng.uniform(*_SIZES[total]), relation)
        if members is None:
            return None
        things.extend(members)
    first = groups[0].count
    if relation in ("above", "below") and not _stacked(things[:first], things[first:], relation):
        return None
    return tuple(things)


def _cluster(
    rng: random.Random,
    group: Group,
    span: tuple[float, float],
    centre_x: float | None,
    size: float,
    relation: str | None,
) -> list[Thing] | None:
    """Members of one group near each other, boxes apart, all inside `span`."""
    home = _KIND[group.kind].home
    size = min(size, span[1] - span[0] - 0.02)
    middle = rng.uniform(*span) if centre_x is None else centre_x + rng.uniform(-0.08, 0.08)
    reach = 0.04 + 0.75 * size * (group.count - 1)
    level = rng.random()
    members: list[Thing] = []
    for _ in range(40 * group.count):
        side = size * rng.uniform(0.94, 1.06) if size > 0.165 else size * rng.uniform(1.0, 1.08)
        x = middle + rng.uniform(-reach, reach)
        height = min(1.0, max(0.0, level + rng.uniform(-0.35, 0.35) * (1 if group.count > 1 else 0)))
        if home == "air":
            y = AIR[0] + side / 2 + height * (AIR[1] - AIR[0] - side)
        else:
            top = max(GROUND[0], side + AIR[1] - 0.03) if relation in ("above", "below") else GROUND[0] + 0.03
            y = top + height * (GROUND[1] - top) - side / 2
        reach *= 1.02
        if x - side / 2 < span[0] or x + side / 2 > span[1]:
            middle += 0.1 * ((span[0] + span[1]) / 2 - middle)
            continue
        if all(max(abs(x - m.x), abs(y - m.y)) >= (side + m.size) / 2 + _GAP for m in members):
            members.append(
                Thing(group.kind, group.colour, round(x, 4), round(y, 4), round(side, 4), rng.random() < 0.5)
            )
            if len(members) == group.count:
                return members
    return None


def _stacked(first: list[Thing], second: list[Thing], relation: str) -> bool:
    """Whether the upper things are fully above the lower ones, and not beside them."""
    upper, lower = (first, second) if relation == "above" else (second, first)
    clear = max(thing.y + thing.size / 2 for thing in upper) <= min(thing.y - thing.size / 2 for thing in lower) + 0.03
    over = abs(sum(t.x for t in upper) / len(upper) - sum(t.x for t in lower) / len(lower)) < 0.2
    return clear and over
