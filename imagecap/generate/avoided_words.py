"""Tokens that spell the words of `avoid_words`."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagecap.data.texts import WIDE
from imagecap.generate.token_texts import token_texts

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


_KEPT = 64  # lists of words whose tokens are kept: a server gets the same ones again


@dataclass(frozen=True)
class AvoidedTokens:
    """What may not be generated.

    Attributes:
        anywhere: ids of tokens that hold one of the words, or the beginning of a longer one.
        at_start: ids of tokens that are that at the start of a caption only: inside, they are a part of another word.
        sequences: ids of words that several tokens spell.
    """

    anywhere: tuple[int, ...] = ()
    at_start: tuple[int, ...] = ()
    sequences: tuple[tuple[int, ...], ...] = ()


def holds_word(text: str, word: str) -> bool:
    """Whether a caption holds a word, in capital or small letters; in scripts without blanks: these characters."""
    return _pattern(word).search(text) is not None


def avoided_tokens(model: "ImageCaptioner", words: list[str]) -> AvoidedTokens:
    """Find the tokens of words, which are kept with the model.

    Args:
        model: the captioner.
        words: at least one word; several words with blanks between them may be one.
    """
    texts = token_texts(model)
    key = tuple(words)
    if key not in texts.avoided:
        if len(texts.avoided) >= _KEPT:
            texts.avoided.clear()
        texts.avoided[key] = _find(model, texts.texts, words)
    found: AvoidedTokens = texts.avoided[key]
    return found


def _find(model: "ImageCaptioner", texts: list[str], words: list[str]) -> AvoidedTokens:
    anywhere: set[int] = set()
    at_start: set[int] = set()
    sequences: set[tuple[int, ...]] = set()
    for wide in (False, True):
        same = [re.escape(word) for word in words if bool(WIDE.match(word)) == wide]
        pattern = re.compile("|".join(same) if wide else rf"(?<!\w)(?:{'|'.join(same)})(?!\w)", re.IGNORECASE)
        for number, text in enumerate(texts if same else ()):
            match = pattern.search(text)
            if match is not None:
                (anywhere if wide or match.start() else at_start).add(number)
    for word in words:
        wide = bool(WIDE.match(word))
        for form in dict.fromkeys((word, word.capitalize(), word.lower())):
            context = "。" if wide else "a "
            before, whole = model.text_ids(context.strip()), model.text_ids(context + form)
            ids = tuple(whole[len(before) :]) if whole[: len(before)] == before else ()
            for spelled in (ids, tuple(model.text_ids(form))):
                if len(spelled) > 1:
                    sequences.add(spelled)
            if len(ids) == 1:
                anywhere.add(ids[0])
    return AvoidedTokens(tuple(sorted(anywhere)), tuple(sorted(at_start - anywhere)), tuple(sorted(sequences)))


def _pattern(word: str) -> re.Pattern[str]:
    """Matches a word in a text."""
    escaped = re.escape(word)
    return re.compile(escaped if WIDE.match(word) else rf"(?<!\w){escaped}(?!\w)", re.IGNORECASE)
