"""Precision and recall of the objects, colours and counts that captions name.

Precision is the share of the named concepts that some reference of the picture names too; what no reference names is
likely a hallucination (the idea of CHAIR: Rohrbach et al. 2018). Recall is the share of the concepts in at least half
of a picture's references that its caption names.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from imagecap.eval.scenes.world import COLOURS, KINDS

CLASSES: tuple[str, ...] = ("objects", "colours", "counts")

Concepts = Mapping[str, frozenset[str]]
"""Concepts by class."""

# One concept per line: its English words, then its Chinese ones, which all count as the same. The objects are
# categories of COCO, the most frequent nouns of Flickr8k, and those of the sample scenes.
_OBJECTS = """
man men guy guys gentleman|男人 男子 男士 男性
woman women lady ladies|女人 女子 女士 女性
boy boys|男孩 小男孩
girl girls|女孩 小女孩
child children kid kids toddler toddlers|孩子 小孩 儿童 小朋友
baby babies infant|婴儿 宝宝
crowd|人群
dog dogs puppy puppies|狗 小狗 犬
cat cats kitten kittens|猫 小猫
horse horses|马
cow cows cattle|牛 奶牛
sheep lamb lambs|羊 绵羊
elephant elephants|大象
bear bears|熊
zebra zebras|斑马
giraffe giraffes|长颈鹿
bird birds|鸟 小鸟
duck ducks|鸭子
rabbit rabbits|兔子
snail snails|蜗牛
butterfly butterflies|蝴蝶
fish fishes|鱼
car cars|汽车 轿车 小汽车
bus buses|公共汽车 公交车 巴士
truck trucks|卡车
train trains|火车
motorcycle motorcycles motorbike motorbikes|摩托车
bicycle bicycles bike bikes|自行车 单车
plane planes airplane airplanes aeroplane|飞机
boat boats|船 小船
kite kites|风筝
balloon balloons|热气球 气球
skateboard skateboards|滑板
snowboard snowboards|单板
surfboard surfboards|冲浪板
ski skis|滑雪板
ball balls|球
football footballs|橄榄球
basketball basketballs|篮球
frisbee frisbees|飞盘
bat bats|球棒
racket rackets racquet|球拍
tree trees|树 树木 大树
flower flowers|花 花朵 鲜花
grass|草地 草坪 草
mushroom mushrooms|蘑菇
house houses|房子 屋子
building buildings|建筑 建筑物 大楼 楼房
tent tents|帐篷
bridge bridges|桥
street streets road roads|街道 马路 道路 公路
sidewalk pavement|人行道
fence fences|栅栏 篱笆
bench benches|长椅 长凳
chair chairs|椅子
table tables|桌子
bed beds|床
couch sofa|沙发
umbrella umbrellas|雨伞 伞
bag bags backpack backpacks|包 背包 书包
gift gifts present presents|礼物
cup cups mug mugs|杯子
bottle bottles|瓶子
bowl bowls|碗
plate plates|盘子
knife knives|刀
pizza pizzas|披萨
cake cakes|蛋糕
sandwich sandwiches|三明治
banana bananas|香蕉
apple apples|苹果
phone phones cellphone|手机 电话
laptop laptops computer computers|电脑 笔记本电脑
television tv|电视
book books|书
clock clocks|钟 时钟
camera cameras|相机 照相机
guitar guitars|吉他
hat hats cap caps|帽子
helmet helmets|头盔
shirt shirts tshirt t-shirt t-shirts|衬衫 t恤 上衣
jacket jackets coat coats|夹克 外套
dress dresses|裙子 连衣裙
sunglasses|太阳镜 墨镜
water|水
ocean sea|大海 海洋
beach|海滩 沙滩
wave waves|海浪
pool pools|泳池 游泳池
river rivers|河 河流 小河
lake|湖
mountain mountains|山 大山 高山
rock rocks|岩石 石头
snow|雪 雪地
sand|沙子
sky|天空
"""
_COLOURS = """
red|红色 红 大红
orange|橙色 橘色
yellow|黄色 黄
green|绿色 绿
blue|蓝色 蓝
purple|紫色 紫
pink|粉色 粉红色 粉红
brown tan|棕色 褐色
black|黑色 黑
white|白色 白
gray grey|灰色 灰
"""
_COUNTS = """
two 2|两 二 双
three 3|三
four 4|四
five 5|五
six 6|六
seven 7|七
eight 8|八
nine 9|九
ten 10|十
"""


def concepts(caption: str, language: str) -> dict[str, frozenset[str]]:
    """Find the concepts that a caption names.

    Returns:
        Concepts by class, each under its first English word; none in a language without a word list.
    """
    find = _FINDERS.get(language)
    return {name: find(caption.lower(), name) if find else frozenset() for name in CLASSES}


def hallucinated(caption: str, references: Iterable[str], language: str) -> list[str]:
    """Objects and colours that the caption names and no reference names, sorted."""
    named = concepts(caption, language)
    known = [concepts(reference, language) for reference in references]
    return sorted(
        concept
        for name in ("objects", "colours")
        for concept in named[name] - frozenset().union(*(each[name] for each in known))
    )


def word_classes(
    captions: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> dict[str, dict[str, float]]:
    """Measure precision and recall of each class against the references, over all captions.

    Args:
        captions: the model's captions.
        references: the references of each picture.
        language: language of both.

    Returns:
        `precision`, `recall` and the numbers of concepts that were `named` and `wanted`, by class. A precision or
        recall of 0 out of 0 is left out, and so is a class that occurs nowhere.
    """
    counts = _Counts()
    for caption, group in zip(captions, references, strict=True):
        known = [concepts(reference, language) for reference in group]
        counts.add(
            concepts(caption, language),
            {name: frozenset().union(*(each[name] for each in known)) for name in CLASSES},
            {name: _in_half([each[name] for each in known]) for name in CLASSES},
        )
    return counts.rows()


def truth_classes(
    captions: Iterable[str], truths: Iterable[Mapping[str, frozenset[str]]], language: str
) -> dict[str, dict[str, float]]:
    """Measure the same against the truth of sample scenes, as `truth.scene_words` gives it for each picture.

    The places of scenes (beach, snow) do not count as objects.
    """
    places = _forms("objects", 0).keys() - {kind.name for kind in KINDS}
    counts = _Counts()
    for caption, truth in zip(captions, truths, strict=True):
        named = concepts(caption, language)
        counts.add(named | {"objects": named["objects"] - places}, truth, truth)
    return counts.rows()


class _Counts:
    """Precision of the concepts that captions name, and recall of the wanted ones, counted picture by picture."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in CLASSES}

    def add(self, named: Concepts, right: Concepts, wanted: Concepts) -> None:
        """Count the concepts that the caption of a picture names, those that are right, and those that are wanted."""
        for name, counts in self._counts.items():
            found = named[name]
            counts["named"] += len(found)
            counts["wanted"] += len(wanted[name])
            counts["right"] += len(found & right[name])
            counts["recalled"] += len(found & wanted[name])

    def rows(self) -> dict[str, dict[str, float]]:
        """Precision, recall and the numbers of concepts of each class that occurs."""
        rows = {name: self._row(counts) for name, counts in self._counts.items()}
        return {name: row for name, row in rows.items() if row}

    @staticmethod
    def _row(counts: Mapping[str, int]) -> dict[str, float]:
        named, wanted = counts["named"], counts["wanted"]
        row: dict[str, float] = {}
        if named:
            row["precision"] = counts["right"] / named
        if wanted:
            row["recall"] = counts["recalled"] / wanted
        return row | {"named": named, "wanted": wanted} if row else {}


def _in_half(groups: Sequence[frozenset[str]]) -> frozenset[str]:
    """The concepts that are in at least half of the groups."""
    every = frozenset().union(*groups)
    return frozenset(each for each in every if 2 * sum(each in group for group in groups) >= len(groups))


@cache
def _forms(name: str, column: int) -> dict[str, str]:
    """Word → concept, of the English words (column 0) or the Chinese ones (column 1)."""
    lines = {"objects": _OBJECTS, "colours": _COLOURS, "counts": _COUNTS}[name].strip().splitlines()
    forms: dict[str, str] = {}
    for line in lines:
        parts = line.split("|")
        forms.update(dict.fromkeys(parts[column].split(), parts[0].split()[0]))
    sample = {
        "objects": [(kind.name, kind.zh) for kind in KINDS],
        "colours": [(each.name, each.zh) for each in COLOURS],
    }
    for english, chinese in sample.get(name, []):
        forms.setdefault((english, chinese)[column], english)
    return forms


@cache
def _chinese_pattern(name: str) -> re.Pattern[str]:
    """Matches the Chinese words of a class, the longest first: 小船 is not counted as 船 too."""
    forms = sorted(_forms(name, 1), key=lambda form: (-len(form), form))
    joined = "|".join(map(re.escape, forms))
    # a count stands before a measure word; 十字路口 is none
    return re.compile(rf"({joined})(?=[个只辆座顶棵朵把份架条位名群匹头艘])" if name == "counts" else f"({joined})")


def _find_english(caption: str, name: str) -> frozenset[str]:
    forms = _forms(name, 0)
    return frozenset(forms[word] for word in re.findall(r"[a-z0-9]+(?:-[a-z]+)?", caption) if word in forms)


def _find_chinese(caption: str, name: str) -> frozenset[str]:
    forms = _forms(name, 1)
    return frozenset(forms[word] for word in _chinese_pattern(name).findall(caption))


# language → finds the concepts of a class in a caption in small letters
_FINDERS: dict[str, Callable[[str, str], frozenset[str]]] = {"en": _find_english, "zh": _find_chinese}
