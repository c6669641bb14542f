"""Prompts: choosing and tokenizing them, embedding them with the image tokens, and decoding token ids to captions.

The prefix of a caption is the input of the language model before the first generated token: the tokens before the
image, the image tokens, the prompt, and the text that the caption begins with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.decoders import check_decoder

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

MAX_START_TOKENS = 256  # longer values of `caption_start`, the first words of a caption, are truncated


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


def tokenize_prompt(model: "ImageCaptioner", prompt: str, settings: GenerateSettings) -> TokenizedPrompt:
    """Tokenize a prompt, followed by `settings.caption_start`.

    Raises:
        ImageCapError: the prompt contains the image token; prompt and caption have more tokens than the language model
            has positions; or the language model does not support these settings.
    """
    ids = model.prompt_ids(prompt)
    start = model.caption_ids(settings.caption_start, MAX_START_TOKENS)[:-1] if settings.caption_start else []
    tokenized = TokenizedPrompt(prompt, ids.before, [*ids.after, *start])
    tokens = sum(tokenized.shape) + model.num_image_tokens + settings.max_length
    check_decoder(model, settings.num_beams, tokens)
    return tokenized


def embed_prefixes(
    model: "ImageCaptioner", features: Tensor, prompts: Sequence[TokenizedPrompt]
) -> tuple[Tensor, Tensor]:
    """Embed the prefixes of a batch: image tokens are projected patch features, other tokens are looked up.

    Args:
        model: the captioner.
        features: patch features, `[rows, patches, vision_hidden]`.
        prompts: one per row, all of equal shape.

    Returns:
        Embeddings `[rows, tokens, hidden]` and token ids `[rows, tokens]`, in which image tokens are placeholders.
    """
    images = model.project(features)
    before = torch.tensor([prompt.before for prompt in prompts], dtype=torch.long, device=images.device)
    after = torch.tensor([prompt.after for prompt in prompts], dtype=torch.long, device=images.device)
    image_ids = before.new_full(images.shape[:2], model.image_token_id)
    embed = model.embed_tokens
    embeddings = torch.cat((embed(before), images.to(embed.weight.dtype), embed(after)), dim=1)
    return embeddings, torch.cat((before, image_ids, after), dim=1)


def end_token_ids(model: "ImageCaptioner") -> list[int]:
    """Ids of the tokens that end a caption: those of the checkpoint's generation config, else EOS of the tokenizer."""
    ids = model.llava.generation_config.eos_token_id
    if ids is None:
        ids = model.eos_token_id
    return list(ids) if isinstance(ids, list | tuple) else [ids]


def caption_text(model: "ImageCaptioner", tokens: Sequence[int], settings: GenerateSettings) -> str:
    """Decode generated token ids to the text of a caption, without special tokens, after `settings.caption_start`."""
    text: str = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return (settings.caption_start + text).strip()
