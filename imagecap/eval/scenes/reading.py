"""Reading captions of sample scenes back into facts, to judge whether they are true and complete."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagecap.eval.scenes.phrases import COUNT_EN, COUNT_ZH, INVERSE, RELATION_EN, RELATION_ZH, TIME_EN, TIME_ZH
from imagecap.eval.scenes.world import COLOURS, KINDS, PLACES, Group


@dataclass(frozen=True)
class Facts:
    """Claims of a caption.

    Attributes:
        groups: one or two groups; the left or upper one first.
        relation: `"left of"` or `"above"`; None with one group.
    """

    groups: tuple[Group, ...]
    relation: str | None


def normalise(groups: Sequence[Group], relation: str | None) -> Facts:
    """Order the groups: the left or upper one first."""
    if relation in ("right of", "below"):
        return Facts((groups[1], groups[0]), INVERSE[relation])
    return Facts(tuple(groups), relation)


def _facts(
    text: str, groups: list[Group], alone: str, relate: Callable[[str, list[Group]], Facts | None]
) -> Facts | None:
    """Read a text in which `<0>` and `<1>` stand for the groups: `alone` matches one, `relate` reads a pair."""
    if len(groups) == 1:
        return Facts(tuple(groups), None) if re.fullmatch(alone, text) else None
    if len(groups) != 2 or groups[0].kind == groups[1].kind:
        return None
    return relate(text, groups)


def read_caption(text: str, language: str) -> Facts | None:
    """Read what a caption claims; None if it is not a complete caption in the words of the scenes.

    Every noun phrase must be well formed (number agreement in English, the right measure word in Chinese) and the
    rest of the sentence must say exactly one thing about how two groups stand to each other.
    """
    return LANGUAGES[language](text)


def is_true(text: str, language: str, groups: Sequence[Group], relation: str | None) -> bool:
    """Whether a caption is true and complete: the same objects, colours, counts and relation."""
    facts = read_caption(text, language)
    return facts is not None and facts == normalise(groups, relation)


_EN_NOUNS = {(kind.name, 1): kind.name for kind in KINDS} | {(kind.plural, 2): kind.name for kind in KINDS}
_EN_COUNTS = {"a": 1, "an": 1} | {word: count for count, word in COUNT_EN.items()}


def _any(words: Sequence[str]) -> str:
    return "|".join(sorted(set(words), key=lambda word: (-len(word), word)))


_EN_GROUP = re.compile(
    rf"\b({_any(list(_EN_COUNTS))}) ({_any([c.name for c in COLOURS])}) ({_any([noun for noun, _ in _EN_NOUNS])})\b"
)
_EN_THE = re.compile(rf"\bthe ({_any([noun for noun, _ in _EN_NOUNS])})\b")
_EN_FILLER = re.compile(
    rf"\b({_any([p.en for p in PLACES] + [t for times in TIME_EN.values() for t in times])}"
    r"|a picture of|you can see|there (?:is|are)|here (?:is|are)|can be seen|just)\b"
)
_EN_RELATION = {phrase: relation for relation, phrases in RELATION_EN.items() for phrase in phrases}
_EN_REL = _any(list(_EN_RELATION))
_EN_SIDES = {"on the left": "left of", "on the right": "right of", "above": "above", "below": "below"}
_EN_SIDE = _any(list(_EN_SIDES))
_EN_BESIDE = re.compile(r"(?:to (?:its|their) (left|right)|(above|over|below|under) (?:it|them))")


def _read_english(text: str) -> Facts | None:
    text = " ".join(re.sub(r"[.,;:!]", " ", text.lower()).split())
    groups: list[Group] = []

    def name(match: re.Match[str]) -> str:
        count, colour, noun = _EN_COUNTS[match[1]], match[2], match[3]
        article_fits = match[1] not in ("a", "an") or (match[1] == "an") == (colour[0] in "aeiou")
        kind = _EN_NOUNS.get((noun, min(count, 2)))
        if kind is None or not article_fits:
            return match[0]
        groups.append(Group(count, colour, kind))
        return f"<{len(groups) - 1}>"

    text = _EN_GROUP.sub(name, text)
    text = " ".join(_EN_FILLER.sub(" ", text).split())
    return _facts(text, groups, r"<0>(?: (?:is|are))?", _relate_english)


def _relate_english(text: str, groups: list[Group]) -> Facts | None:
    text = re.sub(r"(?<=<\d>) (?:is|are)\b", "", text)
    if found := re.fullmatch(rf"<0> ({_EN_REL}) <1>", text):
        return normalise(groups, _EN_RELATION[found[1]])
    if found := re.fullmatch(rf"({_EN_REL}) <0>(?: is| are)? <1>", text):
        return normalise((groups[1], groups[0]), _EN_RELATION[found[1]])
    if (found := re.fullmatch(r"<0> with <1> (.+)", text)) and (beside := _EN_BESIDE.fullmatch(found[1])):
        relation = f"{beside[1]} of" if beside[1] else _EN_RELATION[beside[2]]
        return normalise((groups[1], groups[0]), relation)
    if found := re.fullmatch(rf"<0> ({_EN_SIDE}) and <1> ({_EN_SIDE})", text):
        relation = _EN_SIDES[found[1]]
        return normalise(groups, relation) if _EN_SIDES[found[2]] == INVERSE[relation] else None
    if found := re.fullmatch(rf"<0> and <1> (?:with )?({_EN_THE.pattern}) ({_EN_SIDE})", text):
        for place, group in enumerate(groups):
            if _EN_NOUNS.get((found[2], min(group.count, 2))) == group.kind:
                return normalise((group, groups[1 - place]), _EN_SIDES[found[3]])
    return None


_ZH_KINDS = {kind.zh: kind for kind in KINDS}
_ZH_COLOURS = {colour.zh: colour.name for colour in COLOURS}
_ZH_COUNTS = {word: count for count, word in COUNT_ZH.items()}
_ZH_GROUP = re.compile(
    rf"([{''.join(_ZH_COUNTS)}])({_any([kind.measure for kind in KINDS])})"
    rf"({_any(list(_ZH_COLOURS))})的?({_any(list(_ZH_KINDS))})"
)
_ZH_FILLER = re.compile(
    rf"{_any([p.zh for p in PLACES])}|背景是(?:{_any([p.zh[:-1] for p in PLACES])})"
    rf"|{_any([t for times in TIME_ZH.values() for t in times])}"
    r"|这张图片里|图中|画面中|画面|可以看到|可以看见|，|。|,|\s"
)
_ZH_RELATION = {phrase: relation for relation, phrases in RELATION_ZH.items() for phrase in phrases}
_ZH_REL = _any(list(_ZH_RELATION))


def _read_chinese(text: str) -> Facts | None:
    groups: list[Group] = []

    def name(match: re.Match[str]) -> str:
        kind = _ZH_KINDS[match[4]]
        if kind.measure != match[2]:
            return match[0]
        groups.append(Group(_ZH_COUNTS[match[1]], _ZH_COLOURS[match[3]], kind.name))
        return f"<{len(groups) - 1}>"

    text = _ZH_FILLER.sub("", _ZH_GROUP.sub(name, text))
    return _facts(text, groups, r"(?:这?是)?的*有?<0>在?的?", _relate_chinese)


def _relate_chinese(text: str, groups: list[Group]) -> Facts | None:
    text = re.sub(r"^的?有?", "", text)
    if found := re.fullmatch(rf"<0>(?:在|位于)<1>的?({_ZH_REL})", text):
        return normalise(groups, _ZH_RELATION[found[1]])
    if found := re.fullmatch(rf"<0>的?({_ZH_REL})(?:是|有)<1>", text):
        return normalise((groups[1], groups[0]), _ZH_RELATION[found[1]])
    if found := re.fullmatch(rf"({_ZH_REL})(?:是|有)<0>({_ZH_REL})(?:是|有)<1>", text):
        relation = _ZH_RELATION[found[1]]
        return normalise(groups, relation) if _ZH_RELATION[found[2]] == INVERSE[relation] else None
    if found := re.fullmatch(rf"<0>和<1>({_any(list(_ZH_KINDS))})在({_ZH_REL})", text):
        for place, group in enumerate(groups):
            if group.kind == _ZH_KINDS[found[1]].name:
                return normalise((group, groups[1 - place]), _ZH_RELATION[found[2]])
    return None


LANGUAGES: dict[str, Callable[[str], Facts | None]] = {"en": _read_english, "zh": _read_chinese}
"""Languages in which captions of scenes can be read, with what reads them."""
