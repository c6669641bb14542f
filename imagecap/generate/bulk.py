"""Captioning of any number of picture files, batch by batch, while threads read the files of the next batches."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch

from imagecap.config import Settings
from imagecap.data.decoding import default_threads, picture_reader
from imagecap.data.identity import picture_fingerprint
from imagecap.data.images import PictureError
from imagecap.data.prefetch import prefetch
from imagecap.generate.captioner import caption_pixels
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.journal import JournalRow
from imagecap.generate.pictures import Picture
from imagecap.generate.prompts import resolve_prompt, tokenize_prompt
from imagecap.model.tiles.tiled import Pixels, together
from imagecap.model.vision_encoder.clip_encoder import patch_weight

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


def caption_rows(
    model: "ImageCaptioner", pictures: Sequence[Picture], settings: Settings, batch_size: int
) -> Iterator[list[JournalRow]]:
    """Caption picture files in order; threads read and resize the files of the next batches at the same time.

    Args:
        model: the captioner; it is switched to evaluation mode.
        pictures: names and places of the pictures.
        settings: their sections `data` and `generate` are used.
        batch_size: number of pictures per batch.

    Yields:
        The rows of one batch, one per picture. A row has `image` (the name), `caption`, `score`, `tokens` (their
        number) and, if `num_captions` is above 1, `others`. The row of a picture that cannot be read, or for which no
        token could be chosen, has `image` and `error`.
        `file` is the `picture_fingerprint`.

    Raises:
        ImageCapError: neither the settings nor the model have a prompt.
    """
    generate = settings.generate
    prompt = tokenize_prompt(model, resolve_prompt(model, generate), generate)
    weight = patch_weight(model.vision_tower)
    model.llava.eval()
    limit = settings.data.max_image_pixels
    read = picture_reader(lambda image: model.preprocess([image])[0], limit, model.least_side)
    threads = default_threads()
    results = prefetch(
        # the fingerprint comes first: a file that changes meanwhile is captioned again the next time
        lambda picture: (picture[0], picture_fingerprint(picture[1]), read(picture[1])),
        pictures,
        threads=threads,
        ahead=8 * threads,
    )
    while batch := list(islice(results, batch_size)):
        pixels = [result for _, _, result in batch if not isinstance(result, PictureError)]
        captions: list[GeneratedCaption] = []
        if pixels:
            with torch.inference_mode():
                pixel_values = together(pixels).to(weight.device, weight.dtype)
                captions = caption_pixels(model, pixel_values, [prompt] * len(pixels), generate)
        remaining = iter(captions)
        yield [
            {"image": name, **_content(result, remaining), **({"file": fingerprint} if fingerprint else {})}
            for name, fingerprint, result in batch
        ]


def _content(result: Pixels | PictureError, captions: Iterator[GeneratedCaption]) -> JournalRow:
    """The next caption, or the error of a picture that could not be read."""
    if isinstance(result, PictureError):
        return {"error": result.reason}
    caption = next(captions)
    if caption.error is not None:
        return {"error": caption.error}
    row = {"caption": caption.text, "score": caption.score, "tokens": len(caption.token_ids)}
    return row | ({"others": [other.text for other in caption.others]} if caption.others else {})
