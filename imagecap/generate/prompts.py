"""Prompts: choosing and tokenizing them, embedding them with the image tokens, and decoding token ids to captions.

The prefix of a caption is the input of the language model before the first generated token: the tokens before the
image, the image tokens, the prompt, and the text that the caption begins with.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary, proxy

import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.data.prompt_fields import fill
from imagecap.data.texts import without_picture_mark
from imagecap.errors import ImageCapError
from imagecap.generate.decoders import check_decoder
from imagecap.languages import LANGUAGES, Language, language_of
from imagecap.model.tiles.tiled import Pixels
from imagecap.model.vocabulary import require_known_tokens

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

MAX_START_TOKENS = 256  # of `caption_start`, the first words of a caption
Prefixes: TypeAlias = Tensor | Sequence[Tensor]
"""Embeddings of prefixes, `[rows, tokens, hidden]`; or rows of different lengths, `[tokens, hidden]` each."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of one byte in vocabularies of SentencePiece
_KEPT_PROMPTS = 64  # of each captioner: most of its captions have the same prompt
_CLEANED = 8  # characters at the end that `clean_up_tokenization_spaces` may still change: it joins "do n't"


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt, and the token ids before and after the image tokens.

    Attributes:
        text: the prompt before tokenization.
        before: ids before the image tokens.
        after: ids after the image tokens: those of the prompt, then those of `caption_start`.
    """

    text: str
    before: list[int]
    after: list[int]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of tokens before and after the image tokens; prompts of equal shape form a batch without padding."""
        return len(self.before), len(self.after)


_kept_prompts: "WeakKeyDictionary[ImageCaptioner, Callable[[str, GenerateSettings], TokenizedPrompt]]" = (
    WeakKeyDictionary()
)


def resolve_prompt(
    model: "ImageCaptioner",
    settings: GenerateSettings,
    prompt: str | None = None,
    *,
    fallback: str | None = None,
    missing: str = "the model brings no prompt: give one with --prompt",
) -> str:
    """Return the first prompt that is not None: `prompt`, `settings.prompt`, that saved with the model, `fallback`.

    Raises:
        ImageCapError: all of them are None; the message is `missing`.
    """
    for candidate in (prompt, settings.prompt, model.info.get("prompt"), fallback):
        if candidate is not None:
            return str(candidate)
    raise ImageCapError(missing)


def prompt_language(info: Mapping[str, Any], settings: GenerateSettings) -> Language:
    """The language that captions are in for the prompt of the settings, or for that saved with the model.

    Args:
        info: the content of the model's `imagecap.json`.
        settings: their `prompt` is used.
    """
    prompt = str(settings.prompt if settings.prompt is not None else info.get("prompt", ""))
    prompts: Mapping[str, str] = info.get("prompts") or {}
    own = next((spec.code for spec in LANGUAGES.values() if prompts.get(spec.code) == prompt), None)
    return own or language_of(prompt)


def tokenize_prompt(model: "ImageCaptioner", prompt: str, settings: GenerateSettings) -> TokenizedPrompt:
    """Tokenize a prompt, followed by `settings.caption_start`. Marks of the picture around the prompt are left out.

    The fields `{length}` and `{tags}` of the prompt are filled from the settings. The last results for a captioner are
    kept, so they must not be changed.

    Raises:
        ImageCapError: the prompt contains a special token, or one that the language model does not have;
            `caption_start` has more than `MAX_START_TOKENS` tokens; prompt and caption have more tokens than the
            language model has positions; or the language model does not support these settings.
    """
    kept = _kept_prompts.get(model)
    if kept is None:
        captioner: Any = proxy(model)  # what refers to the captioner itself would keep it here for ever
        kept = _kept_prompts[model] = lru_cache(_KEPT_PROMPTS)(partial(_tokenize, captioner))
    return kept(prompt, settings)


def _tokenize(model: "ImageCaptioner", prompt: str, settings: GenerateSettings) -> TokenizedPrompt:
    prompt = fill(without_picture_mark(prompt), settings.target_length, settings.wanted_tags)
    ids = model.prompt_ids(prompt)
    start = model.text_ids(settings.caption_start)
    if len(start) > MAX_START_TOKENS:
        raise ImageCapError(f"caption_start has {len(start)} tokens, more than {MAX_START_TOKENS}: shorten it")
    tokenized = TokenizedPrompt(prompt, ids.before, [*ids.after, *start])
    require_known_tokens([*tokenized.before, *tokenized.after], model.embed_tokens.num_embeddings, "the prompt")
    tokens = sum(tokenized.shape) + model.num_image_tokens + settings.max_length
    check_decoder(model, settings.num_beams, tokens)
    return tokenized


def embed_prefixes(
    model: "ImageCaptioner", features: Pixels, prompts: Sequence[TokenizedPrompt]
) -> tuple[Prefixes, Tensor]:
    """Embed the prefixes of a batch: image tokens are projected patch features, other tokens are looked up.

    Args:
        model: the captioner.
        features: patch features, `[rows, patches, vision_hidden]`, or those of tiles.
        prompts: one per row, all of equal shape.

    Returns:
        Embeddings `[rows, tokens, hidden]` and token ids `[rows, tokens]`, in which image tokens are placeholders. With
        tiles the embeddings are a list of rows. Their ids then all have the image tokens of the longest row: rules
        against repetition do not care how often a token comes in one place.
    """
    images = model.project(features)
    device = features.device
    before = torch.tensor([prompt.before for prompt in prompts], dtype=torch.long, device=device)
    after = torch.tensor([prompt.after for prompt in prompts], dtype=torch.long, device=device)
    count = images.shape[1] if isinstance(images, Tensor) else max(map(len, images))
    ids = torch.cat((before, before.new_full((len(prompts), count), model.image_token_id), after), dim=1)
    first, last = model.embed_tokens(before), model.embed_tokens(after)
    if isinstance(images, Tensor):
        return torch.cat((first, images.to(first.dtype), last), dim=1), ids
    rows = zip(first, images, last, strict=True)
    return [torch.cat((start, image.to(first.dtype), end)) for start, image, end in rows], ids


def end_token_ids(model: "ImageCaptioner") -> list[int]:
    """Ids of the tokens that end a caption: those of the checkpoint's generation config, else EOS of the tokenizer."""
    ids = model.llava.generation_config.eos_token_id
    if ids is None:
        ids = model.eos_token_id
    return list(ids) if isinstance(ids, list | tuple) else [ids]


def caption_text(model: "ImageCaptioner", tokens: Sequence[int], settings: GenerateSettings) -> str:
    """Decode generated token ids to the text of a caption, without special tokens, after `settings.caption_start`.

    Start and continuation are decoded together, because tokenizers of the SentencePiece kind drop a blank at the
    beginning of a text, and would drop the one between the two.
    """
    tokenizer, start = model.tokenizer, settings.caption_start
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    if not start:
        return text.strip()
    special = _special_tokens(model)
    # If a character of the start has no token, its ids hold the special token for that, after which a blank is kept.
    start_ids = model.text_ids(start)
    before = tokenizer.decode(start_ids)
    whole = tokenizer.decode([*start_ids, *(token for token in tokens if token not in special)])
    return (start + (whole[len(before) :] if whole.startswith(before) else text)).strip()


def _special_tokens(model: "ImageCaptioner") -> set[int]:
    return {token for token, added in model.tokenizer.added_tokens_decoder.items() if added.special}


def final_text(model: "ImageCaptioner", tokens: Sequence[int], settings: GenerateSettings) -> str:
    """The beginning of the text of an unfinished caption that no later token changes; see `caption_text`."""
    tokenizer, end, special = model.tokenizer, len(tokens), _special_tokens(model)
    # Bytes in a row are decoded together, also those with special tokens between them, which are left out before: an
    # incomplete character makes all of them U+FFFD.
    while end and (
        tokens[end - 1] in special or _BYTE.fullmatch(str(tokenizer.convert_ids_to_tokens(tokens[end - 1])))
    ):
        end -= 1
    # Other incomplete characters are U+FFFD by themselves. White space at the end is stripped until more text follows.
    text = caption_text(model, tokens[:end], settings).rstrip("\ufffd").rstrip()
    return text[:-_CLEANED] if tokenizer.clean_up_tokenization_spaces else text
