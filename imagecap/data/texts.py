"""What captions and prompts may hold: text that can be seen, without control characters and without marks of a model.

A mark is a piece of text that language models or data formats use as a token, such as `<|im_end|>` or `<image>`.
"""

import re
import unicodedata
from collections.abc import Sequence

# Characters without a picture that Unicode counts as letters or symbols: fillers of Hangul, and the blank of Braille.
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
_UNSEEN_CATEGORIES = {"Cc", "Cf", "Cn", "Mn", "Me", "Zl", "Zp", "Zs"}

# Byte order marks, zero-width spaces, soft hyphens and marks of direction.
_INVISIBLE = "\ufeff\u200b\u2060\u00ad\u200e\u200f"

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and the ends of lines

# ASCII, Latin letters with accents, and the dashes and quotation marks of typography: all that English captions usually
# hold. None of them tells the script of another language.
_PLAIN = re.compile("[ -~\u00a1-\u024f\u2010-\u2027]*")

# Where the picture stands in the prompts of LLaVA, Qwen, Gemma, InternVL, Pixtral, Phi and others.
_PICTURE_MARK = (
    r"(?:<\|vision_start\|>|<img>|<start_of_image>|\[IMG\]|<\|image_\d+\|>|<\|?image\|?>|<\|image_pad\|>"
    r"|<image_soft_token>|<IMG_CONTEXT>|<image_placeholder>|\[IMG_END\]|<end_of_image>|</img>|<\|vision_end\|>)"
)
_OUTER_PICTURE_MARKS = re.compile(rf"^(?:\s*{_PICTURE_MARK})+\s*|\s*(?:{_PICTURE_MARK}\s*)+$")
_MARK = re.compile(
    rf"{_PICTURE_MARK}|<[|｜][^<>|｜\s]+[|｜]>|</?s>|</?(?:pad|unk|bos|eos|mask|sep|cls|think)>"
    r"|\[/?(?:INST|CLS|SEP|PAD|UNK|MASK|BOS|EOS)\]|<(?:start|end)_of_turn>"
)


# Units of length: a word between white space; in scripts that are written without blanks, every character by itself.
_WITHOUT_BLANKS = "\u2e80-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f"
WIDE = re.compile(rf"[{_WITHOUT_BLANKS}]")
WORD = re.compile(rf"[{_WITHOUT_BLANKS}]|[^\s{_WITHOUT_BLANKS}]+")


def count_words(text: str) -> int:
    """The length of a text: its words, or its characters in scripts without blanks, such as Chinese.

    Punctuation by itself does not count.

    >>> count_words("A red T-shirt, on grass .") + count_words("一只猫。")
    8
    """
    return sum(any(map(str.isalnum, word)) for word in WORD.findall(text))


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, zero-width and control characters, lone accents."""
    if "!" <= text[:1] <= "~":  # a caption usually begins with a letter
        return False
    return all(char in _FILLERS or unicodedata.category(char) in _UNSEEN_CATEGORIES for char in text)


def is_plain(text: str) -> bool:
    """Whether a text is of `_PLAIN` characters, without blanks at its ends and without the first character of a mark.

    Such a text is its own `trim`, and holds no control characters and no marks. Its language is English unless its row
    or other captions of its picture say otherwise.
    """
    return _holds_plain_only(text) and "!" <= text[:1] <= "~" and text[-1] != " "


def are_plain(texts: Sequence[str]) -> bool:
    """Whether all texts are plain, see `is_plain`: faster than one by one."""
    return _holds_plain_only("".join(texts)) and all("!" <= text[:1] <= "~" and text[-1] != " " for text in texts)


def trim(text: str) -> str:
    """The text without white space and invisible characters at its ends."""
    while (shorter := text.strip().strip(_INVISIBLE)) != text:
        text = shorter
    return text


def control_character(text: str) -> str | None:
    """The first control character, as `U+001B`; None if there is none. Tabs and ends of lines do not count."""
    found = None if text.isprintable() else _CONTROL.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def without_control_characters(text: str) -> str:
    """The text without what `control_character` finds."""
    return text if text.isprintable() else _CONTROL.sub("", text)


def mark_in(text: str) -> str | None:
    """The first piece of a text that language models use as a token, such as `<|im_end|>`; None if there is none."""
    found = _MARK.search(text) if _may_hold_mark(text) else None
    return found[0] if found else None


def picture_mark_in(text: str) -> str | None:
    """The first mark in a text that stands for a picture, such as `<image>`; None if there is none."""
    found = re.search(_PICTURE_MARK, text) if _may_hold_mark(text) else None
    return found[0] if found else None


def without_picture_mark(prompt: str) -> str:
    r"""The prompt without marks of the picture at its ends: "<image>\nDescribe it." becomes "Describe it.".

    Prompts of LLaVA say so where the picture stands. Here it always stands before the prompt.
    """
    return _OUTER_PICTURE_MARKS.sub("", prompt) if _may_hold_mark(prompt) else prompt


def _holds_plain_only(text: str) -> bool:
    plain = text.isascii() or _PLAIN.fullmatch(text) is not None
    return plain and text.isprintable() and not _may_hold_mark(text)


def _may_hold_mark(text: str) -> bool:
    """Whether a text has the first character of a mark. Few do, and the patterns are slow."""
    return "<" in text or "[" in text
