"""Every kind of picture comes in as upright RGB; every bad one as a sentence."""

import contextlib
import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from imagecap.data import images
from imagecap.data.identity import picture_digest
from imagecap.data.images import load_image, thumbnail_jpeg
from imagecap.errors import ImageCapError

# pytest puts aside the filter that the module sets for Pillow's warnings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LIMIT = 1_000_000
WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corner_picture() -> Image.Image:
    """20 x 10, red in the upper left quarter, else white: shows how it was turned."""
    image = Image.new("RGB", (20, 10), WHITE)
    image.paste(RED, (0, 0, 10, 5))
    return image


def near(pixel: tuple[int, ...], colour: tuple[int, int, int], by: int = 12) -> bool:
    return all(abs(one - other) <= by for one, other in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_metadata_is_gone(kind: str, orientation: int) -> None:
    upright = corner_picture()
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright.transpose(inverse.get(orientation, images._TRANSPOSE[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    image = load_image(encoded(stored, kind, exif=exif, **options), LIMIT)
    assert image.mode == "RGB"
    assert image.size == (20, 10)
    assert near(image.getpixel((3, 2)), RED)
    assert all(near(image.getpixel(place), WHITE) for place in [(16, 2), (3, 8), (16, 8)])
    assert image.info == {}
    assert dict(image.getexif()) == {}


def test_broken_exif_does_not_cost_the_picture() -> None:
    whole = encoded(corner_picture(), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12rubbish")
    assert load_image(whole, LIMIT).size == (20, 10)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", RED),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", RED),
        (Image.new("RGB", (4, 4), RED).quantize(4), "PNG", RED),
        (Image.new("L", (4, 4), 128), "PNG", (128, 128, 128)),
        (Image.new("L", (4, 4), 128), "JPEG", (128, 128, 128)),
        (Image.new("1", (4, 4), 1), "PNG", WHITE),
        (Image.new("LA", (4, 4), (0, 0)), "PNG", WHITE),
        (Image.new("LA", (4, 4), (0, 255)), "PNG", (0, 0, 0)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG", WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG", (255, 127, 127)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "WEBP", WHITE),
        (Image.new("YCbCr", (4, 4), (76, 85, 255)), "JPEG", RED),
        (Image.new("I;16", (4, 4), 0x8080), "PNG", (128, 128, 128)),
        (Image.new("I;16", (4, 4), 0x8080), "TIFF", (128, 128, 128)),
        (Image.new("I", (4, 4), 0x8080), "TIFF", (128, 128, 128)),
        (Image.new("I", (4, 4), 128), "TIFF", (128, 128, 128)),
        (Image.new("F", (4, 4), 0.5), "TIFF", (128, 128, 128)),
        (Image.new("F", (4, 4), 128.0), "TIFF", (128, 128, 128)),
        (Image.new("RGB", (4, 4), RED), "BMP", RED),
        (Image.new("RGB", (4, 4), RED), "PPM", RED),
        (Image.new("RGB", (16, 16), RED), "AVIF", RED),
        (Image.new("RGB", (16, 16), RED), "JPEG2000", RED),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_kinds_of_pixels(image: Image.Image, kind: str, expected: tuple[int, int, int]) -> None:
    result = load_image(encoded(image, kind), LIMIT)
    assert result.mode == "RGB"
    assert near(result.getpixel((1, 1)), expected, by=3)


def test_transparent_colour_of_a_palette_and_of_grey_lies_on_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for kind in ("PNG", "GIF"):
        assert load_image(encoded(palette, kind, transparency=1), LIMIT).getpixel((1, 1)) == WHITE
    grey = encoded(Image.new("L", (4, 4), 7), "PNG", transparency=7)
    assert load_image(grey, LIMIT).getpixel((1, 1)) == WHITE


def test_wide_ranges_keep_their_order() -> None:
    values = np.array([[-3.0, 0.0, 200_000.0, np.nan]], dtype=np.float32)
    pixels = np.asarray(load_image(encoded(Image.fromarray(values), "TIFF"), LIMIT))[0, :, 0]
    assert pixels[0] == 0
    assert pixels[2] == 255
    assert pixels[0] <= pixels[1] == pixels[3] < pixels[2]
    nothing = np.array([[0.5, np.nan]], dtype=np.float32)
    assert np.asarray(load_image(encoded(Image.fromarray(nothing), "TIFF"), LIMIT))[0, 1, 0] == 0


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert load_image(content, LIMIT).getpixel((4, 4)) == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated(kind: str, share: float, make_picture, tmp_path: Path) -> None:
    whole = encoded(make_picture(1, (64, 64)), kind)
    load_image(whole, LIMIT)
    file = tmp_path / "half.jpg"
    file.write_bytes(whole[: int(len(whole) * share)])
    for source in (file, file.read_bytes()):
        with pytest.raises(ImageCapError, match="is truncated or damaged") as caught:
            load_image(source, LIMIT)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("the picture " if isinstance(source, bytes) else str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, I am text", "is not a picture"),
        (b"\0" * 1000, "is not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
        (b"<!DOCTYPE html><title>404</title>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50, "HEIC"),
        (b"\xff\xd8\xff\xe0", "truncated or damaged"),
    ],
)
def test_not_a_picture(content: bytes, message: str) -> None:
    with pytest.raises(ImageCapError, match=message):
        load_image(content, LIMIT)


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (("none.png", "does not exist"), ("", "is not a file"), ("pipe.png", "is not a file")):
        with pytest.raises(ImageCapError, match=message):
            load_image(tmp_path / name, LIMIT)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def png_chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)
    )


PNG_METADATA = {
    "a long text": png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 400_000)),
    "a long text in Unicode": png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
    "a long colour profile": png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1_500_000))),
    "many texts": png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 1_000_000)) * 70,
    "a wrong checksum": png_chunk(b"tEXt", b"k\0v", 7),
    "a wrong length": b"\0\xff\xff\xfftEXtk\0v",
    "an unknown compression": png_chunk(b"zTXt", b"k\0\7x"),
    "an empty profile": png_chunk(b"iCCP", b""),
    "a short gamma": png_chunk(b"gAMA", b"1"),
    "a short density": png_chunk(b"pHYs", b"1"),
    "a short animation": png_chunk(b"acTL", b"1"),
    "a name that is not ASCII": png_chunk(b"t\xffXt", b"x"),
}


@pytest.mark.parametrize("metadata", PNG_METADATA)
def test_damaged_metadata_of_png_is_no_damage_to_the_picture(metadata: str, make_picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(make_picture(1, (30, 20)), "PNG", exif=exif)
    chunk, expected = PNG_METADATA[metadata], load_image(whole, LIMIT)
    assert expected.size == (20, 30)
    for content in (whole[:33] + chunk + whole[33:], whole[:-12] + chunk + whole[-12:]):
        assert load_image(content, LIMIT).tobytes() == expected.tobytes()
    assert load_image(whole[:-12] + chunk[: len(chunk) // 2], LIMIT).tobytes() == expected.tobytes()


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


@pytest.mark.parametrize(
    "segment",
    [
        jpeg_segment(0xE0, b"JFIF"),
        jpeg_segment(0xE1, b"Exif\0\0junk"),
        jpeg_segment(0xE2, b"ICC_PROFILE\0"),
        jpeg_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0\2\xb0\4\0\1\0\0\0\xff\xff\xff\xff\0\0\0\0"),
        jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\xff12"),
        jpeg_segment(0xEE, b"Adobe\0"),
        jpeg_segment(0xFE, b"x" * 60_000),
    ],
)
def test_damaged_metadata_of_jpeg_is_no_damage_to_the_picture(segment: bytes, make_picture) -> None:
    whole = encoded(make_picture(1, (30, 20)), "JPEG")
    for content in (whole[:2] + segment + whole[2:], whole[:20] + segment + whole[20:]):
        assert load_image(content, LIMIT).tobytes() == load_image(whole, LIMIT).tobytes()


def test_damaged_metadata_of_webp_is_no_damage_to_the_picture(make_picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = {"exif": exif, "icc_profile": b"p" * 50, "xmp": b"<x>" * 50}
    whole = encoded(make_picture(1, (30, 20)), "WEBP", lossless=True, **extra)
    turned, upright = load_image(whole, LIMIT).tobytes(), make_picture(1, (30, 20)).tobytes()
    place = whole.index(b"EXIF")
    too_long = struct.pack("<I", 0xFFFFFFF)
    for content, expected in (
        (whole[:-40], turned),
        (whole[:4] + too_long + whole[8:], turned),
        (whole[: place + 4] + too_long + whole[place + 8 :], upright),
        (whole[: place + 20], upright),
        (whole[:place] + b"\xff" * 20 + whole[place + 20 :], upright),
    ):
        assert load_image(content, LIMIT).tobytes() == expected


def test_damaged_metadata_of_tiff_is_no_damage_to_the_picture(make_picture) -> None:
    texts = {270: "x" * 300, 306: "2020", 700: b"<x>", 34675: b"p" * 50}
    for compression in (None, "tiff_lzw"):
        whole = encoded(make_picture(1, (30, 20)), "TIFF", compression=compression, tiffinfo=texts)
        (start,) = struct.unpack_from("<I", whole, 4)
        (count,) = struct.unpack_from("<H", whole, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length, _ = struct.unpack_from("<HHII", whole, place)
            if tag in texts:
                entry = struct.pack("<HHII", tag, kind, length, 0xFFFFFFF0)
                content = whole[:place] + entry + whole[place + 12 :]
                assert load_image(content, LIMIT).tobytes() == make_picture(1, (30, 20)).tobytes()


@pytest.mark.parametrize("size", [(1001, 1000), (10_000, 9_500), (14_000, 14_000), (60_000, 60_000)])
@pytest.mark.filterwarnings("error")
def test_absurd_size_is_refused_before_decoding(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageCapError, match="pixels"):
        load_image(png_header(*size), LIMIT)


def test_a_line_is_no_picture() -> None:
    """Resized by its shorter side it would be a bomb."""
    with pytest.raises(ImageCapError, match="times the other"):
        load_image(encoded(Image.new("RGB", (1, 300)), "PNG"), LIMIT)


def test_thumbnail_has_no_metadata(make_picture) -> None:
    image = make_picture(5, (300, 100))
    exif = Image.Exif()
    exif[0x010E] = "secret"
    exif.get_ifd(0x8825)[1] = "N"
    stored = Image.open(io.BytesIO(encoded(image, "JPEG", exif=exif, comment=b"secret", icc_profile=b"secret")))
    for source in (stored, load_image(encoded(image, "JPEG", exif=exif), LIMIT)):
        content = thumbnail_jpeg(source, 60)
        assert b"secret" not in content
        assert b"Exif" not in content
        assert Image.open(io.BytesIO(content)).size == (60, 20)
    assert stored.size == (300, 100)  # the original is not shrunk
    assert Image.open(io.BytesIO(thumbnail_jpeg(Image.new("RGBA", (5, 5)), 60))).getpixel((2, 2)) == WHITE


def test_threads_agree(make_picture, tmp_path: Path) -> None:
    files = []
    for number in range(40):
        file = tmp_path / f"{number}.{'png' if number % 2 else 'webp'}"
        make_picture(number, (40, 30)).save(file, lossless=True)
        files.append(file)
    expected = [picture_digest(make_picture(number, (40, 30))) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda file: picture_digest(load_image(file, LIMIT)), files)) == expected


def test_damaged_bytes_never_raise_anything_else(make_picture) -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO"):
        whole = np.frombuffer(encoded(make_picture(2, (16, 16)), kind), dtype=np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
            with contextlib.suppress(ImageCapError):
                assert load_image(damaged.tobytes(), LIMIT).mode == "RGB"
