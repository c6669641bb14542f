"""Stanford's PTB tokenizer as coco-caption uses it (lower case, punctuation dropped), without Java.

It was written from observed behaviour, not from the source. Of a table of token patterns the longest match is taken,
and of equally long ones the first. The group `rest` of a pattern counts for the length of the match but is not part of
the token: so "doesn't" becomes "does n't", and an abbreviation keeps its full stop before a small letter.
"""

import re
import unicodedata
from functools import lru_cache

from imagecap.metrics.ptb_rules import NUMBER_ABBREVIATIONS, RULES, Rule

DROPPED: frozenset[str] = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that coco-caption drops. Its list also has brackets, but in capitals while tokens are in lower case, so that
brackets stay."""

_SPACE = " \t\n\u00a0"
# line ends shift every later caption in the official wrapper; C1 controls are read as Windows-1252
_NORMAL = str.maketrans(
    dict.fromkeys("\n\r\x0b\x0c\u2028\u2029", " ")
    | {"\x80": "$", "\x85": "…", "\x91": "‘", "\x92": "’", "\x93": "“", "\x94": "”", "\x96": "–", "\x97": "—"}
)
# words that may form one token with the next: digits ("1 1/2"), markup, initials ("K. The"), "no." and the like
_REACHES_ON = re.compile(rf"[0-9½¼¾⅓⅔<]|(?<![A-Za-z])(?:[A-Za-z]|(?i:{'|'.join(NUMBER_ABBREVIATIONS)}))\.+$")


def ptb_tokens(caption: str) -> list[str]:
    """The tokens that coco-caption's scorers see. A token may hold U+00A0 (`"1 1/2"`)."""
    tokens: list[str] = []
    for word in caption.split(" "):
        known = _word(word)
        if known is None:
            return [token for token in ptb_line(caption) if token not in DROPPED]
        tokens += known
    return tokens


@lru_cache(maxsize=100_000)
def _word(word: str) -> list[str] | None:
    """The tokens of a word between two blanks; None if they depend on the next word."""
    if _REACHES_ON.search(word):
        return None
    return [token for token in ptb_line(word) if token not in DROPPED]


def ptb_line(caption: str) -> tuple[str, ...]:
    """All tokens of a caption in lower case, punctuation included.

    The official tokenizer adds a full stop after an abbreviation that ends a sentence ("etc." gives "etc. ."). It is
    left out here, since the scorers do not see it.
    """
    text = caption.translate(_NORMAL) + "\n"
    tokens: list[str] = []
    position, end = 0, len(text)
    while position < end:
        first = text[position]
        if first in _SPACE:
            position += 1
            continue
        rule, stop = _longest(text, position, first)
        if rule is not None:
            token = text[position:stop]
            token = rule.change(token) if rule.change is not None else token
            if token:
                tokens.append(token.lower())
        elif _is_token(first):
            tokens.append(first.lower())
        position = stop
    return tuple(tokens)


def _longest(text: str, position: int, first: str) -> tuple[Rule | None, int]:
    best: Rule | None = None
    width, stop = 0, position + 1
    for rule in RULES.get(first) or RULES["other"]:
        found = rule.match(text, position)
        if found is not None and found.end() - position > width:
            best, width = rule, found.end() - position
            stop = found.start("rest") if rule.looks_ahead else found.end()
    return best, stop


def _is_token(character: str) -> bool:
    """Whether a character that matches no rule is a token. Others (emoji, most CJK brackets, controls) are dropped."""
    if character.isascii():
        return character > " " and character != "\x7f"
    if character > "\uffff":
        return False
    kind = unicodedata.category(character)
    point = ord(character)
    if kind in ("Sm", "So", "Sc", "Po", "No", "Ps", "Pe"):
        return (
            point < 0x0600
            or 0x2016 <= point <= 0x2023
            or 0x2030 <= point <= 0x2042
            or 0x2070 <= point <= 0x2BFF
            or character in "、。〒・￥"
            or 0xFF01 <= point <= 0xFF65
        )
    return kind in ("Sk", "Pc") or character == "‟"
