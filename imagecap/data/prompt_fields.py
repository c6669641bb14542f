"""The fields `{length}` and `{tags}` of a prompt.

In training each caption fills them with its own length and some of its own words, so that the model learns what they
ask for. One caption in five says "any" instead, so that it also learns to be asked for nothing. When captions are
made, the settings fill them.
"""

import hashlib
import re
from collections.abc import Sequence

from imagecap.data.texts import WIDE, WORD, count_words

LENGTH, TAGS = "{length}", "{tags}"
ANY = "any"
_MOST_TAGS = 3
_SHORTEST_TAG = 4  # letters; shorter words are mostly articles and prepositions


def has_fields(prompt: str) -> bool:
    """Whether a prompt has a field to fill."""
    return LENGTH in prompt or TAGS in prompt


def fill(prompt: str, length: int = 0, tags: Sequence[str] = ()) -> str:
    """Fill the fields of a prompt; without a length or tags, they are "any"."""
    return prompt.replace(LENGTH, str(length) if length else ANY).replace(TAGS, ", ".join(tags) or ANY)


def fill_for(prompt: str, caption: str) -> str:
    """Fill the fields of a prompt from a training caption, always in the same way."""
    drawn = hashlib.blake2b(caption.encode(), digest_size=8).digest()
    length = count_words(caption) if drawn[0] % 5 else 0
    return fill(prompt, length, _tags(caption, drawn[1:]) if drawn[1] % 5 else ())


def _tags(caption: str, drawn: bytes) -> list[str]:
    """One to three words of a caption. Scripts without blanks have none, as their words are not known."""
    words = [re.sub(r"^\W+|\W+$", "", word).lower() for word in WORD.findall(caption) if not WIDE.match(word)]
    words = list(dict.fromkeys(word for word in words if len(word) >= _SHORTEST_TAG))
    count = min(1 + drawn[1] % _MOST_TAGS, len(words))
    chosen = sorted(words, key=lambda word: hashlib.blake2b(word.encode(), key=drawn).digest())
    return chosen[:count]
