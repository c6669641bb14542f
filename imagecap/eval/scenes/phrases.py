"""The words of scene captions, which their writer (`sampledata/scenes`) and their reader share."""

from imagecap.eval.scenes.world import COLOURS, KINDS, PLACES, Group

KIND = {kind.name: kind for kind in KINDS}
COLOUR = {colour.name: colour for colour in COLOURS}
PLACE = {place.name: place for place in PLACES}

COUNT_EN = {1: "one", 2: "two", 3: "three", 4: "four"}
COUNT_ZH = {1: "一", 2: "两", 3: "三", 4: "四"}

INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

RELATION_EN = {
    "left of": ("to the left of", "on the left of", "left of"),
    "right of": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
"""`A <phrase> B`."""

SIDE_EN = {"left of": "on the left", "right of": "on the right", "above": "above", "below": "below"}
"""`with A <phrase>`: where A is, as seen from the other group."""

RELATION_ZH = {
    "left of": ("左边", "左侧"),
    "right of": ("右边", "右侧"),
    "above": ("上面", "上方"),
    "below": ("下面", "下方"),
}
"""`A在B的<phrase>`."""

TIME_EN = {True: ("at night",), False: ("by day", "during the day")}
TIME_ZH = {True: ("夜晚", "夜里"), False: ("白天",)}


def english_group(group: Group) -> str:
    """A noun phrase such as `a red car`, `an orange bus` or `two blue butterflies`."""
    kind = KIND[group.kind]
    if group.count == 1:
        return f"{'an' if group.colour[0] in 'aeiou' else 'a'} {group.colour} {kind.name}"
    return f"{COUNT_EN[group.count]} {group.colour} {kind.plural}"


def english_kind(group: Group) -> str:
    """A second mention such as `the car` or `the cars`."""
    kind = KIND[group.kind]
    return f"the {kind.name if group.count == 1 else kind.plural}"


def chinese_group(group: Group, particle: bool) -> str:
    """A noun phrase such as `一辆红色的汽车`, or without 的."""
    kind = KIND[group.kind]
    colour = COLOUR[group.colour].zh
    return f"{COUNT_ZH[group.count]}{kind.measure}{colour}{'的' if particle else ''}{kind.zh}"
