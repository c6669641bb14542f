"""Tokens that a caption may not hold or not begin with, in the stock settings of `generate`.

A language model that was not trained on captions yet may end its turn at once, or generate special tokens only, and
both are empty captions. The settings `suppress_tokens` and `begin_suppress_tokens` of `generation_config.json` prevent
this in transformers' `generate`, and in our decoders too.
"""

from typing import Any

from imagecap.data.texts import is_blank
from imagecap.model.language_model.plain_text import PlainText

# Texts whose characters few vocabularies hold as tokens: some tokenizers put a blank token before them.
_RARE_TEXTS = ("猫", "\U0001f98a", "ə")


def suppress_silent_tokens(llava: Any, tokenizer: Any) -> None:
    """Set `suppress_tokens` and `begin_suppress_tokens` in the generation config of a model that has neither.

    Suppressed are special tokens, which training captions do not hold, and rows of the head that no token has. A
    caption may not begin with an end token, or with one of which nothing can be seen, such as a line break.

    Args:
        llava: the captioner; its `generation_config` is changed.
        tokenizer: that of its language model.
    """
    config = llava.generation_config
    if config.suppress_tokens is not None or config.begin_suppress_tokens is not None:
        return
    ends = {tokenizer.eos_token_id} if config.eos_token_id is None else set(_listed(config.eos_token_id))
    special = PlainText(tokenizer).special_ids | {llava.config.image_token_id}
    known = set(tokenizer.get_vocab().values())
    ids = range(llava.lm_head.out_features)
    suppressed = {number for number in ids if number in special or number not in known} - ends
    others = [number for number in ids if number not in suppressed and number not in ends]
    texts = tokenizer.batch_decode([[number] for number in others], skip_special_tokens=True)
    blank = {number for number, text in zip(others, texts, strict=True) if is_blank(text)}
    config.suppress_tokens = sorted(suppressed) or None
    config.begin_suppress_tokens = sorted(ends | (blank - _leading_blanks(tokenizer)))


def _leading_blanks(tokenizer: Any) -> set[int]:
    """The tokens that the tokenizer itself puts before a text, as those of the SentencePiece kind do."""
    ids = (tokenizer(text, add_special_tokens=False).input_ids for text in _RARE_TEXTS)
    return {each[0] for each in ids if each}


def _listed(ids: int | list[int]) -> list[int]:
    return ids if isinstance(ids, list) else [ids]
