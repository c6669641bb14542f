"""Large pictures are decoded strip by strip to the pixels that decoding the whole gives."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagecap.data import strips
from imagecap.data.images import load_image, open_image
from imagecap.data.strips import decode_in_strips

LIMIT = 10_000


def encoded(mode: str, kind: str, orientation: int = 1, **options: Any) -> bytes:
    random = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (83, 61), dtype=np.uint16))
    elif mode == "P":
        image = Image.fromarray(random.integers(0, 256, (83, 61, 3), dtype=np.uint8)).quantize(64)
    else:
        bands = len(Image.new(mode, (1, 1)).getbands())
        image = Image.fromarray(random.integers(0, 256, (83, 61, bands), dtype=np.uint8).squeeze(), mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    image.save(content, kind, exif=exif, **options)
    return content.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_orientation(monkeypatch: pytest.MonkeyPatch, orientation: int, mode: str) -> None:
    monkeypatch.setattr(strips, "_STRIP_PIXELS", 700)
    content = encoded(mode, "JPEG", orientation)
    with open_image(content, LIMIT) as opened:
        found = decode_in_strips(opened)
        assert found is not None
        assert (found is opened) == (orientation == 1 and mode == "RGB")
        assert (found.mode, found.size) == ("RGB", load_image(content, LIMIT).size)
        assert found.tobytes() == load_image(content, LIMIT).tobytes()


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("L", "PNG", {}),
        ("I;16", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("P", "GIF", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "WEBP", {"lossless": True}),
    ],
)
def test_every_kind_of_picture(monkeypatch: pytest.MonkeyPatch, mode: str, kind: str, options: dict[str, Any]) -> None:
    monkeypatch.setattr(strips, "_STRIP_PIXELS", 700)
    content = encoded(mode, kind, **options)
    with open_image(content, LIMIT) as opened:
        found = decode_in_strips(opened)
        assert found is not None
        assert found.mode == "RGB"
        assert found.tobytes() == load_image(content, LIMIT).tobytes()


def test_what_cannot_be_read_so_is_none() -> None:
    with open_image(encoded("RGB", "JPEG")[:-500], LIMIT) as opened:
        assert decode_in_strips(opened) is None


def test_jpegs_at_a_reduced_scale() -> None:
    content = encoded("RGB", "JPEG", orientation=6)
    with open_image(content, LIMIT) as opened:
        found = decode_in_strips(opened, 15)
        assert found is not None
        assert found.tobytes() == load_image(content, LIMIT, 15).tobytes()
        assert found.width < 83
