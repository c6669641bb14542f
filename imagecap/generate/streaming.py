"""A caption in pieces, as its tokens are made."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.prompts import caption_text, embed_prefixes, end_token_ids, resolve_prompt, tokenize_prompt
from imagecap.generate.rules import Rules
from imagecap.generate.running import Row, RunningBatch
from imagecap.generate.sampling import row_uniforms

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
    if settings.num_beams > 1 or settings.num_captions > 1:
        raise ImageCapError("a stream is one caption, greedy or sampled: set num_beams and num_captions to 1")
    return _pieces(model, image, resolve_prompt(model, settings, prompt), settings)


def _pieces(model: "ImageCaptioner", image: "Image", prompt: str, settings: GenerateSettings) -> Iterator[str]:
    with torch.inference_mode():
        pixels = model.pixel_values([image])
        prefix, prefix_ids = embed_prefixes(
            model, model.encode_images(pixels), [tokenize_prompt(model, prompt, settings)]
        )
        end = torch.tensor(end_token_ids(model), device=prefix.device)
        row = Row(settings, key=None, rules=Rules(settings, end, prefix_ids))
        if settings.temperature > 0:
            row.uniforms = row_uniforms(settings.sample_seed, pixels, [prompt], settings.max_length)[0]
        batch = RunningBatch(model)
        batch.admit(prefix, [row])
        shown = ""
        while batch.rows:
            batch.step()
            text = caption_text(model, row.tokens, settings)
            # an unfinished character reads as the sign for a bad one; blanks at the end may yet be cut
            if not text.endswith("\ufffd") and text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
        text = caption_text(model, row.tokens, settings)
        if text != shown:
            yield text[len(shown) :]
