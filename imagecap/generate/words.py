"""The words of a caption, each with the tokens that spell it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagecap.config import GenerateSettings
from imagecap.data.texts import WORD
from imagecap.generate.prompts import caption_text, final_text

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@dataclass(frozen=True)
class Word:
    """A word of a caption.

    Attributes:
        start: place of its first character in the caption.
        end: place after its last character.
        tokens: places of the tokens that spell it; empty for a word of `caption_start`.
    """

    start: int
    end: int
    tokens: tuple[int, ...]


def words_of(model: "ImageCaptioner", tokens: Sequence[int], settings: GenerateSettings) -> tuple[str, list[Word]]:
    """Return the text of a caption, and its words in order.

    A token can spell several words, or a part of one. Words of scripts without blanks, such as Chinese, that share a
    token are one word here.

    Args:
        model: the captioner.
        tokens: token ids of the caption.
        settings: the settings that it was generated with.
    """
    text = caption_text(model, tokens, settings)
    owners: list[set[int]] = [set() for _ in text]  # tokens that spell each character
    done, pending = len(settings.caption_start), []  # tokens that spell nothing complete yet
    for place in range(len(tokens)):
        last = place + 1 == len(tokens)
        known = text if last else final_text(model, tokens[: place + 1], settings)
        pending.append(place)
        if len(known) > done:
            for character in range(done, min(len(known), len(text))):
                owners[character].update(pending)
            done, pending = len(known), []
    words: list[Word] = []
    for found in WORD.finditer(text):
        spelled = tuple(sorted(set().union(*owners[found.start() : found.end()])))
        if words and words[-1].end == found.start() and set(words[-1].tokens) & set(spelled):
            merged = tuple(sorted({*words[-1].tokens, *spelled}))
            words[-1] = Word(words[-1].start, found.end(), merged)
        else:
            words.append(Word(found.start(), found.end(), spelled))
    return text, words
