"""A caption in pieces, as its tokens are made."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.continuous_batch import ContinuousBatch, can_join, start_caption
from imagecap.generate.prompts import TokenizedPrompt, caption_text, embed_prefixes, resolve_prompt, tokenize_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.model.imagecap_arch import ImageCaptioner


def stream_caption(
    model: "ImageCaptioner", image: "Image", prompt: str | None, settings: GenerateSettings
) -> Iterator[str]:
    """Yield the caption of one picture piece by piece; joined, the pieces are what `caption` returns.

    A piece is text that no later token changes: where a character takes several tokens, it comes with its last one.

    Args:
        model: the captioner, in evaluation mode.
        image: RGB.
        prompt: None: `settings.prompt`, or else the model's own.
        settings: greedy or sampled; one caption.

    Raises:
        ImageCapError: beams or several captions are asked for, or there is no prompt.
    """
    if not can_join(settings):
        raise ImageCapError("a stream is one caption, greedy or sampled: set num_beams and num_captions to 1")
    return _pieces(model, image, tokenize_prompt(model, resolve_prompt(model, settings, prompt), settings), settings)


def _pieces(
    model: "ImageCaptioner", image: "Image", prompt: TokenizedPrompt, settings: GenerateSettings
) -> Iterator[str]:
    with torch.inference_mode():
        pixels = model.pixel_values([image])
        prefix, prefix_ids = embed_prefixes(model, model.encode_images(pixels), [prompt])
        row = start_caption(model, prompt, settings, prefix_ids[0], pixels[0])
        batch = ContinuousBatch(model)
        batch.admit(prefix, [row])
    shown = ""
    while batch.rows:
        with torch.inference_mode():
            batch.step()
        text = caption_text(model, row.tokens, settings)
        # An unfinished character reads as U+FFFD. Blanks at the end may yet be stripped.
        if not text.endswith("\ufffd") and text.startswith(shown) and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = caption_text(model, row.tokens, settings)
    if text != shown:
        yield text[len(shown) :]
