"""Streaming: the text of a caption is yielded while its tokens are generated."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from imagecap.config import GenerateSettings, parse_settings
from imagecap.errors import ImageCapError
from imagecap.generate.continuous_batch import ContinuousBatch, can_join, start_caption
from imagecap.generate.generated import decoded_caption
from imagecap.generate.prompts import (
    TokenizedPrompt,
    embed_prefixes,
    final_text,
    resolve_prompt,
    tokenize_prompt,
)

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
        ImageCapError: the settings have several beams or captions or exclude each other; there is no prompt; or no
            token could be chosen.
    """
    # Settings that were copied with changes have not been checked.
    settings = parse_settings({"generate": settings.model_dump()}, "caption").generate
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
        text = final_text(model, row.tokens, settings)
        if len(text) > len(yielded):
            yield text[len(yielded) :]
            yielded = text
    made = decoded_caption(model, row.tokens, row.score, settings)
    if made.error is not None:
        raise ImageCapError(made.error)
    if made.text != yielded:
        yield made.text[len(yielded) :]
