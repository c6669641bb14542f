"""The text of every token of a vocabulary, and what it adds to the length of a caption in words."""

import codecs
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagecap.data.texts import WIDE, WORD

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

_BYTE = re.compile("<0x([0-9A-F]{2})>")  # a token of one byte in vocabularies of SentencePiece
_FIRST_OF_WIDE = range(0xE3, 0xEA)  # first bytes of most characters of scripts without blanks, in UTF-8


class TokenTexts:
    """What the tokens of a captioner spell.

    Args:
        model: the captioner.

    Attributes:
        texts: the text of each token in the middle of a caption, with the blank before a word; "" for special tokens.
        avoided: the tokens of words (`avoided_words.avoided_tokens`), which are found once.
        words: words that each token holds (`data.texts.count_words`), `[vocabulary]`.
        joins: whether a token begins with a part of a word, which continues the word before it. `[vocabulary]`
        open: whether the next token, if it `joins`, continues a word that was counted. `[vocabulary]`
        keeps: whether a token changes nothing in that: signs, and bytes in the middle of a character. `[vocabulary]`
    """

    def __init__(self, model: "ImageCaptioner") -> None:
        self.avoided: dict[tuple[str, ...], Any] = {}
        self.texts = _texts(model.tokenizer, model.lm_head.out_features)
        rows = [_counts(text) for text in self.texts]
        self.words = torch.tensor([row[0] for row in rows], device=model.device)
        self.joins = torch.tensor([row[1] for row in rows], device=model.device)
        self.open = torch.tensor([row[2] for row in rows], device=model.device)
        self.keeps = torch.tensor([row[3] for row in rows], device=model.device)

    def count(self, tokens: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Count the words of generated tokens.

        Args:
            tokens: token ids, `[..., tokens]`.
            before: the token before the first one, `[..., 1]`; None: there is none.

        Returns:
            Numbers of words, and whether the last word goes on if the next token `joins`; both `[...]`.
        """
        words, joins, open_, keeps = (
            each.to(tokens.device) for each in (self.words, self.joins, self.open, self.keeps)
        )
        first = torch.zeros((*tokens.shape[:-1], 1), dtype=torch.bool, device=tokens.device)
        if before is not None:
            first = open_[before] | keeps[before]
        opens = torch.cat((first, open_[tokens]), dim=-1)
        places = torch.arange(opens.shape[-1], device=tokens.device)
        # the last place that does not keep what was before it; the first one never does
        deciding = (places[1:] * ~keeps[tokens]).cummax(-1).values if tokens.shape[-1] else places[1:].expand_as(tokens)
        opens = opens.gather(-1, torch.cat((torch.zeros_like(first, dtype=torch.long), deciding), dim=-1))
        counted = words[tokens] - (joins[tokens] & opens[..., :-1]).long()
        return counted.sum(-1), opens[..., -1]


def token_texts(model: "ImageCaptioner") -> TokenTexts:
    """The `TokenTexts` of a captioner, made when they are first needed: a large vocabulary takes a second."""
    if model.token_texts is None:
        model.token_texts = TokenTexts(model)
    found: TokenTexts = model.token_texts
    return found


def _counts(text: str) -> tuple[int, bool, bool, bool]:
    """The `words`, `joins`, `open` and `keeps` of a token."""
    if not text:  # a special token, or bytes in the middle of a character
        return 0, False, False, True
    units = list(WORD.finditer(text))
    if not units:  # white space
        return 0, False, False, False
    spoken = [any(map(str.isalnum, unit.group())) for unit in units]
    first, last = units[0], units[-1]
    starts_inside = first.start() == 0 and not WIDE.match(first.group())
    ends_inside = last.end() == len(text) and not WIDE.match(last.group())
    # Signs alone belong to the word that they join: the "-" of "well-lit" leaves it open, that of " - " does not.
    keeps = starts_inside and ends_inside and len(units) == 1 and not spoken[0]
    return sum(spoken), starts_inside and spoken[0], ends_inside and spoken[-1], keeps


def _texts(tokenizer: Any, rows: int) -> list[str]:
    """The text of each of `rows` ids, after another token: some tokenizers drop the blank of the first one."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    names = tokenizer.convert_ids_to_tokens(list(range(min(rows, len(tokenizer)))))
    anchor = tokenizer(".", add_special_tokens=False).input_ids[-1]
    alone = tokenizer.decode([anchor], clean_up_tokenization_spaces=False)
    pairs = tokenizer.batch_decode(
        [[anchor, number] for number in range(len(names))], clean_up_tokenization_spaces=False
    )
    texts = []
    for number, (name, pair) in enumerate(zip(names, pairs, strict=True)):
        text = pair[len(alone) :] if pair.startswith(alone) else pair
        if name is None or number in special:
            text = ""
        elif "\ufffd" in text:
            text = _text_of_bytes(name)
        texts.append(text)
    return texts + [""] * (rows - len(texts))


def _text_of_bytes(name: str) -> str:
    """The text of a token with incomplete characters; a character counts where its first byte is."""
    byte = _BYTE.fullmatch(name)
    known = _bytes_by_letter()
    if byte is not None:
        raw = bytes([int(byte.group(1), 16)])
    elif all(letter in known for letter in name):
        raw = bytes(known[letter] for letter in name)
    else:
        return ""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    text, pending = decoder.decode(raw), decoder.getstate()[0]
    return text + ("一" if pending and pending[0] in _FIRST_OF_WIDE else "")


@cache
def _bytes_by_letter() -> dict[str, int]:
    """The byte that each letter means in the names of byte-level tokens (Radford et al. 2019, GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
