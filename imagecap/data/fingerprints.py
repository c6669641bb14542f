"""Digests of single captions, of which that of a data set is made."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

from imagecap.data.records import Caption

_quoted = json.encoder.encode_basestring_ascii


def caption_fingerprints(digest: str, captions: Sequence[Caption]) -> list[bytes]:
    """Digests of a picture with each of its captions, 32 bytes each; `data_digest` is made of them."""
    # the JSON of a list, put together here because `json.dumps` would make an encoder for every caption
    start, sha256, quoted = f'["{digest}", ', hashlib.sha256, _quoted
    return [
        sha256(
            f"{start}{quoted(each.text)}, {_quoted_kind(each.language, each.prompt)}, {_extra(each)}]".encode()
        ).digest()
        for each in captions
    ]


def plain_fingerprints(digest: str, texts: Sequence[str], language: str, prompt: str) -> list[bytes]:
    """`caption_fingerprints` of captions in one language, with one prompt and without further columns."""
    start, end, sha256, quoted = f'["{digest}", ', f", {_quoted_kind(language, prompt)}, {{}}]", hashlib.sha256, _quoted
    return [sha256(f"{start}{quoted(each)}{end}".encode()).digest() for each in texts]


@lru_cache(64)  # there are few
def _quoted_kind(language: str, prompt: str) -> str:
    return f"{_quoted(language)}, {_quoted(prompt)}"


def _extra(caption: Caption) -> str:
    return json.dumps(caption.extra, sort_keys=True) if caption.extra else "{}"
