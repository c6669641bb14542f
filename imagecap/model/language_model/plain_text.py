"""Tokens of a text from outside, such as a caption, in which no special or added token of the vocabulary may occur."""

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from threading import Lock
from typing import Any

from imagecap.errors import ImageCapError

_TRIAL_TEXTS = ["A dog's ball.", " two  blanks ", "line\nline\t", "É e\u0301 ﬁ 一只狗，在草地上。", "🐕 12345 #x_y"]


class PlainText:
    """Tokenizes text without ever making a special token of it, and finds such tokens.

    Special tokens are those of the vocabulary that steer the model, `<|im_end|>`, and other added tokens that look like
    them, `<think>`. Added tokens that are words or blanks are ordinary text.

    Args:
        tokenizer: the tokenizer of the language model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()  # a tokenizer keeps the value of split_special_tokens, and the loader's threads use it too
        self._special = {
            number: str(token.content)
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or _looks_special(str(token.content))
        }

    def special_token(self, text: str, ids: Sequence[int]) -> str | None:
        """The first special token among the ids of a text; None if there is none.

        The id for unknown characters counts only if the text spells its token.
        """
        for number in self._special.keys() & set(ids):
            if number != self._tokenizer.unk_token_id or self._special[number] in text:
                return self._special[number]
        return None

    def parsed_ids(self, text: str) -> list[int]:
        """Token ids of a text whose special tokens are parsed."""
        with self._lock:
            ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def ids(self, text: str) -> list[int]:
        """Token ids of a text; what looks like a special token gets the tokens of its letters.

        Raises:
            ImageCapError: the vocabulary cannot spell it with other tokens.
        """
        ids: list[int] = self._encode(text)
        found = self.special_token(text, ids)
        if found is not None and self._bare is not None:
            ids = self._bare.encode(text, add_special_tokens=False).ids
            found = self.special_token(text, ids)
        if found is not None:
            raise ImageCapError(f"the text {text!r} holds {found}, a special token of the model: remove it")
        return ids

    def batch_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The `ids` of several texts, tokenized in one call.

        Raises:
            ImageCapError: as `ids` does.
        """
        spoken = [text for text in texts if text]
        if not spoken:
            return [[] for _ in texts]
        found = iter(self._encode(spoken) if self._backend is None else self._encode_fast(self._backend, spoken))
        batch: list[list[int]] = [next(found) if text else [] for text in texts]
        if self._special.keys().isdisjoint(chain.from_iterable(batch)):
            return batch
        return [
            ids if self.special_token(text, ids) is None else self.ids(text)
            for text, ids in zip(texts, batch, strict=True)
        ]

    def _encode(self, texts: str | list[str]) -> Any:
        with self._lock:
            return self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids

    def _encode_fast(self, backend: Any, texts: Sequence[str]) -> list[list[int]]:
        """What `_encode` returns, in less than half of its time: without offsets and masks."""
        with self._lock:
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = True
            return [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=False)]

    @property
    def special_ids(self) -> set[int]:
        """The ids of the special tokens."""
        return set(self._special)

    @property
    def special_tokens(self) -> list[str]:
        """The special tokens as they are written."""
        return list(self._special.values())

    @cached_property
    def _backend(self) -> Any:
        """The tokenizer's object of the library tokenizers, if this alone does all that the tokenizer does; else None.

        A tokenizer of transformers may do something before or after. So both are compared on a few texts.
        """
        backend = _backend_of(self._tokenizer)
        texts = [*_TRIAL_TEXTS, *(f"a {token}b" for token in self.special_tokens)]
        return backend if backend is not None and self._encode_fast(backend, texts) == self._encode(texts) else None

    @cached_property
    def _bare(self) -> Any:
        """The tokenizer without added tokens; None for a tokenizer that is not of the library tokenizers."""
        from tokenizers import Tokenizer

        backend = _backend_of(self._tokenizer)
        if backend is None:
            return None
        content = json.loads(backend.to_str())
        content |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        return Tokenizer.from_str(json.dumps(content))


def _backend_of(tokenizer: Any) -> Any:
    """The object of the library tokenizers inside a tokenizer; None if it has none."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend if isinstance(backend, Tokenizer) else None


def _looks_special(content: str) -> bool:
    """Whether an added token is written as special tokens are: a name between signs, `<think>`, `[TOOL]`."""
    content = content.replace("▁", " ").strip()
    return bool(content) and not content[0].isalnum() and any(char.isalnum() for char in content)
