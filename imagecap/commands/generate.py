"""`run.py generate`: one picture file in, its caption out."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imagecap.config import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.model.imagecap_arch import ImageCaptioner


def caption_file(settings: Settings, model_path: Path, image_path: Path) -> list[str]:
    """Caption one picture file with a saved model: one caption, or `num_captions` of them.

    Raises:
        ImageCapError: the model or the picture cannot be read; the sentence says why.
    """
    image, model = _read(settings, model_path, image_path)
    from imagecap.generate.captioner import caption

    best = caption(model, [image], None, settings.generate)[0]
    return [best.text, *(other.text for other in best.others)]


def stream_file(settings: Settings, model_path: Path, image_path: Path) -> Iterator[str]:
    """The same caption in pieces, as they are made.

    Raises:
        ImageCapError: as `caption_file`, or the settings ask for beams or several captions.
    """
    image, model = _read(settings, model_path, image_path)
    from imagecap.generate.streaming import stream_caption

    return stream_caption(model, image, None, settings.generate)


def _read(settings: Settings, model_path: Path, image_path: Path) -> "tuple[Image, ImageCaptioner]":
    from imagecap.data.images import load_image

    # The picture first: a bad path should not cost the seconds of loading a model.
    image = load_image(image_path, settings.data.max_image_pixels)

    from imagecap.generate.captioner import open_captioner

    return image, open_captioner(model_path, settings.compute)
