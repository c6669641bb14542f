"""What people decide about a caption, and what a caption may be."""

from dataclasses import dataclass
from typing import Any

from imagecap.data.texts import is_blank, trim, without_control_characters
from imagecap.errors import ImageCapError

LONGEST_CAPTION = 10_000
MOST_CHANGES = 20_000
"""Captions that one entry of the journal may change; it is held in memory as a whole."""


ACTIONS = {"accept": "accepted", "edit": "edited", "skip": "skipped", "unusable": "unusable", "reopen": "open"}
"""The state that each action leads to."""


class ConflictError(ImageCapError):
    """A caption was changed by somebody else since it was shown. `item` is the row as it is now."""

    def __init__(self, item: dict[str, Any]) -> None:
        who = item["who"] or "somebody else"
        super().__init__(f"{who} has changed this caption since you opened it; nothing was overwritten")
        self.item = item


@dataclass(frozen=True)
class Author:
    """Who makes a change.

    Attributes:
        name: as the person wrote it.
        model: the model whose captions are corrected; None where it is not known.
    """

    name: str
    model: str | None = None


def cleaned(caption: str) -> str:
    """The caption as the reading of data would take it.

    Raises:
        ImageCapError: it is empty, too long, or no Unicode text.
    """
    text = trim(without_control_characters(caption))
    if is_blank(text):
        raise ImageCapError("the caption is empty; write one, or mark the caption as unusable")
    if len(text) > LONGEST_CAPTION:
        raise ImageCapError(f"the caption has {len(text):,} characters; at most {LONGEST_CAPTION:,} are accepted")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ImageCapError("the caption holds half a character (a lone surrogate)") from None
    return text
