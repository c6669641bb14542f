"""Find and replace in the captions that pass a filter, with a preview."""

import re
from dataclasses import dataclass

import numpy as np

from imagecap.errors import ImageCapError
from imagecap.page.correct.columns import Columns
from imagecap.page.correct.selection import Filter, passing


@dataclass(frozen=True)
class Replacement:
    """What is replaced by what.

    Attributes:
        find: a text, not a pattern.
        replace: the text that takes its place; may be empty.
        match_case: whether capitals and small letters differ.
        whole_words: whether `find` may not be a part of a longer word. Chinese has no blanks between words: every
            character counts as one.
    """

    find: str
    replace: str
    match_case: bool = False
    whole_words: bool = False

    def __post_init__(self) -> None:
        if not self.find:
            raise ImageCapError("write what shall be replaced")

    def applied(self, caption: str) -> str:
        """The caption with every occurrence replaced, and without the blanks that an empty replacement leaves."""
        pattern = re.escape(self.find)
        if self.whole_words:
            begin, end = (rf"({look}[^\W{_HAN}])" * _is_word(self.find[at]) for look, at in (("?<!", 0), ("?!", -1)))
            pattern = begin + pattern + end
        changed = re.sub(pattern, lambda _: self.replace, caption, flags=0 if self.match_case else re.IGNORECASE)
        if changed == caption:
            return caption
        return re.sub(r"  +", " ", changed).strip() if not self.replace.strip() else changed.strip()


_HAN = "\u3400-\u4dbf\u4e00-\u9fff"


def replacements(columns: Columns, wanted: Filter, replacement: Replacement) -> list[tuple[int, str]]:
    """The rows whose captions a replacement changes, each with its new caption, in the order of the file.

    Captions of which nothing would be left are not changed.
    """
    mask = passing(columns, wanted) & columns.captions.contain(replacement.find, match_case=replacement.match_case)
    found = []
    for row in np.flatnonzero(mask).tolist():
        before = columns.captions[row]
        after = replacement.applied(before)
        if after and after != before:
            found.append((row, after))
    return found


def _is_word(character: str) -> bool:
    return re.match(rf"[^\W{_HAN}]", character) is not None
