"""Large JPEGs are decoded at 1/2, 1/4 or 1/8 of their sides, where these stay large enough."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imagecap.data.images import load_image

SIDE = 96


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colours with an edge, which is what a photograph is to a decoder."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    values = np.stack([np.sin(x * 3 + y), np.cos(y * 4 - x), np.sin(x * y)], axis=-1) * 100 + 128
    values[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 30)
    return Image.fromarray(values.astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, **options)
    return content.getvalue()


def reduced(content: bytes) -> Image.Image:
    return load_image(content, 10**8, SIDE)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1600, 1200), (200, 150)),  # at most 1/8
        ((800, 600), (200, 150)),
        ((768, 768), (96, 96)),  # as many as are needed
        ((767, 767), (192, 192)),
        ((192, 4000), (96, 2000)),
        ((191, 4000), (191, 4000)),
        ((97, 9700), (97, 9700)),
        ((5, 5), (5, 5)),
    ],
)
def test_the_smallest_scale_that_is_large_enough(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert reduced(jpeg(photograph(*size))).size == expected


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_are_nearly_those_of_the_whole_picture(mode: str, progressive: bool) -> None:
    content = jpeg(photograph(803, 607, mode), progressive=progressive)
    ours, whole = reduced(content), load_image(content, 10**8)
    assert ours.mode == whole.mode == "RGB"
    assert ours.size == (201, 152)
    both = [np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC), np.float32) for image in (ours, whole)]
    assert np.abs(both[0] - both[1]).mean() < 1.5, "of 255"


def test_it_is_turned_upright_as_the_whole_picture_is() -> None:
    upright = photograph(800, 400)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = jpeg(upright, exif=exif)
        with Image.open(io.BytesIO(content)) as opened:
            expected = ImageOps.exif_transpose(opened).resize((50, 50))
        found = reduced(content)
        assert found.size == ((200, 100) if orientation < 5 else (100, 200))
        difference = np.asarray(found.resize((50, 50)), np.float32) - np.asarray(expected, np.float32)
        assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats_are_decoded_at_their_size(kind: str) -> None:
    content = io.BytesIO()
    photograph(800, 600).save(content, kind)
    found, whole = reduced(content.getvalue()), load_image(content.getvalue(), 10**8)
    assert found.size == (800, 600)
    assert found.tobytes() == whole.tobytes()


def test_limits_are_those_of_the_whole_picture() -> None:
    with pytest.raises(Exception, match="has 800 x 600 pixels, more than max_image_pixels = 100000"):
        load_image(jpeg(photograph(800, 600)), 100_000, SIDE)
