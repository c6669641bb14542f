"""Streaming: the text of a caption is yielded while its tokens are generated."""

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
    """Yield the caption of one picture in pieces; joined, they equal the text that `captioner.caption` returns.

    A yielded piece is final: no later token changes it. A character of several tokens is yielded after its last token.

    Args:
        model: the captioner, in evaluation mode.
        image: an RGB picture.
        prompt: the prompt; None: `settings.prompt`, else the default prompt of the model.
        settings: decoding settings with `num_beams` 1 and `num_captions` 1.

    Raises:
        ImageCapError: the settings have several beams or captions, or there is no prompt.
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
    yielded = ""
    while batch.rows:
        with torch.inference_mode():
            batch.step()
        text = caption_text(model, row.tokens, settings)
        # An incomplete character is decoded as U+FFFD. Trailing white space is stripped until more text follows it.
        if not text.endswith("\ufffd") and text.startswith(yielded) and len(text) > len(yielded):
            yield text[len(yielded) :]
            yielded = text
    text = caption_text(model, row.tokens, settings)
    if text != yielded:
        yield text[len(yielded) :]
