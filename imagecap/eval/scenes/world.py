"""Vocabulary of the sample scenes: kinds of objects, colours, places and relations, and the words for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of thing that can stand, float or fly in a scene.

    Attributes:
        name: identifier, also the English singular.
        plural: English plural.
        zh: Chinese noun.
        measure: Chinese measure word (量词).
        home: where it belongs: on the "ground" or in the "air".
    """

    name: str
    plural: str
    zh: str
    measure: str
    home: str


KINDS: tuple[Kind, ...] = (
    Kind("car", "cars", "汽车", "辆", "ground"),
    Kind("bus", "buses", "公共汽车", "辆", "ground"),
    Kind("bicycle", "bicycles", "自行车", "辆", "ground"),
    Kind("house", "houses", "房子", "座", "ground"),
    Kind("tent", "tents", "帐篷", "顶", "ground"),
    Kind("tree", "trees", "树", "棵", "ground"),
    Kind("flower", "flowers", "花", "朵", "ground"),
    Kind("mushroom", "mushrooms", "蘑菇", "个", "ground"),
    Kind("cat", "cats", "猫", "只", "ground"),
    Kind("dog", "dogs", "狗", "只", "ground"),
    Kind("rabbit", "rabbits", "兔子", "只", "ground"),
    Kind("snail", "snails", "蜗牛", "只", "ground"),
    Kind("umbrella", "umbrellas", "雨伞", "把", "ground"),
    Kind("chair", "chairs", "椅子", "把", "ground"),
    Kind("cup", "cups", "杯子", "个", "ground"),
    Kind("ball", "balls", "球", "个", "ground"),
    Kind("boat", "boats", "小船", "艘", "ground"),
    Kind("gift", "gifts", "礼物", "份", "ground"),
    Kind("balloon", "balloons", "热气球", "个", "air"),
    Kind("bird", "birds", "鸟", "只", "air"),
    Kind("butterfly", "butterflies", "蝴蝶", "只", "air"),
    Kind("kite", "kites", "风筝", "只", "air"),
    Kind("plane", "planes", "飞机", "架", "air"),
    Kind("fish", "fish", "鱼", "条", "air"),
)
"""A fish in the air is a flying fish: these are picture-book scenes."""


@dataclass(frozen=True)
class Colour:
    """A colour by name, with its main tone as red, green, blue in 0..255."""

    name: str
    zh: str
    rgb: tuple[int, int, int]


COLOURS: tuple[Colour, ...] = (
    Colour("red", "红色", (214, 48, 49)),
    Colour("orange", "橙色", (240, 140, 30)),
    Colour("yellow", "黄色", (247, 209, 56)),
    Colour("green", "绿色", (56, 158, 72)),
    Colour("blue", "蓝色", (45, 110, 210)),
    Colour("purple", "紫色", (134, 70, 175)),
    Colour("pink", "粉色", (240, 130, 170)),
    Colour("white", "白色", (245, 245, 240)),
)


@dataclass(frozen=True)
class Place:
    """A background, with the phrase that names it."""

    name: str
    en: str
    zh: str


PLACES: tuple[Place, ...] = (
    Place("meadow", "in a meadow", "草地上"),
    Place("beach", "on a beach", "沙滩上"),
    Place("desert", "in the desert", "沙漠里"),
    Place("snow", "in the snow", "雪地里"),
    Place("mountains", "in the mountains", "山里"),
    Place("city", "in a city", "城市里"),
)

RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")

MAX_COUNT = 4

# Kept out of the training pictures and out of the pretraining of both base checkpoints, to test composition.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "boat"),
        ("red", "bird"),
        ("orange", "umbrella"),
        ("orange", "fish"),
        ("yellow", "house"),
        ("yellow", "rabbit"),
        ("green", "car"),
        ("green", "cup"),
        ("blue", "cat"),
        ("blue", "mushroom"),
        ("purple", "bus"),
        ("purple", "kite"),
        ("pink", "tree"),
        ("pink", "balloon"),
        ("white", "tent"),
        ("white", "ball"),
    }
)
"""(colour, kind) pairs."""


@dataclass(frozen=True)
class Thing:
    """One drawn thing. Positions and sizes are fractions of the picture's side, y grows downwards.

    Attributes:
        kind: name in `KINDS`.
        colour: name in `COLOURS`.
        x: centre of its box, left to right.
        y: centre of its box, top to bottom.
        size: side of its square box.
        flip: mirrored left to right.
    """

    kind: str
    colour: str
    x: float
    y: float
    size: float
    flip: bool


@dataclass(frozen=True)
class Group:
    """Things of one kind and colour, and their number."""

    count: int
    colour: str
    kind: str


@dataclass(frozen=True)
class Scene:
    """The whole truth about one picture.

    Attributes:
        groups: one or two groups; `groups[0] relation groups[1]`.
        relation: a name in `RELATIONS`; None with one group.
        place: name in `PLACES`.
        night: night instead of day.
        things: what is drawn, every member of every group.
        seed: picks the details that no caption mentions (clouds, hills, tones).
    """

    groups: tuple[Group, ...]
    relation: str | None
    place: str
    night: bool
    things: tuple[Thing, ...]
    seed: int
