"""Reading a picture of any supported format as RGB pixels. All pictures are read here.

Pillow's global state is not changed, so that every function may be called from many threads at once.
"""

import io
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from imagecap.data.locations import Location, read_bytes
from imagecap.data.metadata import without_metadata
from imagecap.errors import ImageCapError
from imagecap.printable import printable

# Raster formats with a clear signature. Pillow also opens EPS, by running Ghostscript, and formats that it guesses from
# a loose header (TGA, PCX, …); neither is safe with files of unknown origin.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")

# Vision encoders resize by the shorter side: a picture of 1 x 60,000 would become 224 x 13,000,000 pixels.
MAX_ASPECT_RATIO = 100

_SMALL_FILE = 1 << 20  # bytes; smaller files are read as a whole, whatever is looked at

# Pillow warns of what the errors below say better, or of what does not matter here (odd EXIF, palettes).
# `catch_warnings` is not safe with threads, a filter is.
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Result = TypeVar("Result")


class PictureError(ImageCapError):
    """A picture that cannot be used.

    `reason` is the end of a sentence that starts with the name of the file: "is truncated or damaged (…)".
    """

    def __init__(self, reason: str, name: str = "the picture") -> None:
        super().__init__(f"{name} {reason}")
        self.reason = printable(reason)


def load_image(source: Location | bytes, max_pixels: int, least_side: int | None = None) -> Image.Image:
    """Decode a picture file into RGB.

    EXIF orientation is applied, transparent parts are put on white, the first frame of an animation is taken, and
    16-bit grey is scaled to 8 bits. The result carries no EXIF, GPS or other metadata.

    Args:
        source: where the picture is, or its bytes.
        max_pixels: largest width x height; larger pictures are refused before they are decoded.
        least_side: decode a JPEG at the smallest scale (1/2, 1/4 or 1/8 of its sides) at which both sides have at least
            so many pixels, which takes less time and memory; None: at its size.

    Raises:
        PictureError: the file is missing, empty, truncated, not a picture, or of absurd size. It is an
            `ImageCapError` and names the file, or "the picture" where `source` is bytes.
    """
    try:
        with open_image(source, max_pixels) as opened:
            return decode_image(opened, source, least_side)
    except PictureError as error:
        if isinstance(source, bytes):
            raise
        raise PictureError(error.reason, str(source)) from error


def open_image(source: Location | bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read and check the header of a picture; see `load_image`. The caller closes the returned file.

    If damaged metadata keeps the header from being read, the returned file is a copy in memory without it.
    """
    if isinstance(source, Path):
        source, head, size = _file_at(source)
    else:
        source = source if isinstance(source, bytes) else _bytes_at(source)
        head, size = source[:64], len(source)
    if size == 0:
        raise PictureError("is empty (0 bytes)")
    try:
        opened = _open(source)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own limit, above which it opens nothing; max_pixels cannot lift it without global state.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise PictureError(f"has more than the {limit} pixels that are accepted") from None
    except Exception as error:  # a damaged header can make a plugin raise anything
        found = _first(_open, source)
        if found is None:
            damaged = PictureError(
                _why_unidentified(head) if isinstance(error, UnidentifiedImageError) else _damaged(error)
            )
            raise damaged from error
        opened = found
    width, height = opened.size
    reason = None
    if width * height > max_pixels:
        reason = f"has {width} x {height} pixels, more than max_image_pixels = {max_pixels}"
    elif min(width, height) < 1 or max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        reason = f"has {width} x {height} pixels: one side is more than {MAX_ASPECT_RATIO} times the other"
    if reason is not None:
        opened.close()
        raise PictureError(reason)
    return opened


def decode_image(opened: ImageFile.ImageFile, source: Location | bytes, least_side: int | None = None) -> Image.Image:
    """Decode a picture that was opened from `source` into upright RGB without metadata; see `load_image`."""
    size = opened.size
    try:
        return _decode(opened, least_side)
    except PictureError:
        raise
    except Exception as error:  # damaged data can make a decoder raise anything
        image = None
        if not isinstance(error, MemoryError):
            image = _first(lambda content: _read(content, size, least_side), source)
        if image is None:
            raise PictureError(_damaged(error)) from error
        return image


def _open(source: Path | bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())


def _decode(opened: ImageFile.ImageFile, least_side: int | None) -> Image.Image:
    if least_side is not None:
        opened.draft(None, (least_side, least_side))  # of a format other than JPEG this does nothing
    opened.load()
    image = to_rgb(opened)
    turn = turn_of(opened)
    if turn is not None:
        image = image.transpose(turn)
    image.info = {}
    return image


def _read(content: bytes, size: tuple[int, int], least_side: int | None) -> Image.Image:
    """Decode a picture whose header was checked before, when it was of this size."""
    with _open(content) as opened:
        if opened.size != size:
            raise PictureError("has two sizes")
        return _decode(opened, least_side)


def _first(read: Callable[[bytes], Result], source: Location | bytes) -> Result | None:
    """What `read` makes of a damaged picture without its metadata; None if that does not help."""
    with suppress(OSError):
        content = source if isinstance(source, bytes) else read_bytes(source)
        for bare in without_metadata(content):
            with suppress(Exception):  # as damaged as the picture itself
                return read(bare)
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    """A copy in RGB, transparent parts over white and more than 8 bits scaled to 8; `info` is kept.

    Raises:
        PictureError: the colour space (such as LAB) has no conversion.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _scale_to_8_bits(image)
    if image.has_transparency_data:
        alpha = image.convert("RGBA")
        white = Image.new("RGBA", alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, alpha).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError:
        raise PictureError(f"has colours of the kind {image.mode}, which cannot be read; save it as RGB") from None


def thumbnail_jpeg(image: Image.Image, side: int) -> bytes:
    """A JPEG of at most `side` x `side` pixels, ratio kept, never enlarged, free of any metadata."""
    small = to_rgb(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.info = {}  # Pillow would write a comment or colour profile that it finds here
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85, optimize=True)
    return content.getvalue()


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _file_at(path: Path) -> tuple[Path | bytes, bytes, int]:
    """A file, or its content if it is small; its first 64 bytes; and its size in bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block for ever
            raise PictureError("is not a file")
        with path.open("rb") as file:
            if status.st_size > _SMALL_FILE:
                return path, file.read(64), status.st_size
            content = file.read()  # so that it is opened once
            return content, content[:64], len(content)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character in the name
        raise PictureError("does not exist") from None
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error


def _bytes_at(location: Location) -> bytes:
    try:
        return read_bytes(location)
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error


def _why_unidentified(head: bytes) -> str:
    """Guess from its first bytes what a file is that no decoder accepts."""
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture itself: run `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, not a picture; perhaps a download that failed"
    if text.startswith((b"<svg", b"<?xml")):
        return "is an XML or SVG drawing, not a picture of pixels; save it as PNG"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC picture, which cannot be read; save it as JPEG"
    signatures = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
    if head.startswith(signatures) or head[4:8] == b"ftyp":
        return "is truncated or damaged: its header cannot be read"
    return "is not a picture file (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, …)"


def _damaged(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "does not fit in memory"
    detail = " ".join(str(error).split())[:120]
    return f"is truncated or damaged ({detail or type(error).__name__})"


def turn_of(opened: ImageFile.ImageFile) -> Image.Transpose | None:
    """How a picture must be turned or mirrored to be upright, by its EXIF orientation; None: it is upright."""
    return _TRANSPOSE.get(_orientation(opened))


def _orientation(opened: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) without one or in a broken EXIF block, since the pixels are still good."""
    try:
        value = opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow's EXIF parser raises anything from KeyError to struct.error on odd blocks
        return 1
    return value if isinstance(value, int) else 1


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Convert grey of 16 or 32 bits or of floats to 8-bit grey.

    White is 65,535 in 16-bit pictures. The wider types do not say their range, so it is guessed from the values:
    0..1 (floats), 0..255, 0..65,535, or else from the smallest to the largest value.
    """
    values = np.asarray(image, dtype=np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = 0.0, 65535.0
    if not image.mode.startswith("I;16"):
        smallest, largest = float(values.min()), float(values.max())
        if image.mode == "F" and smallest >= 0 and largest <= 1:
            high = 1.0
        elif smallest >= 0 and largest <= 255:
            high = 255.0
        elif smallest < 0 or largest > 65535:
            low, high = smallest, max(largest, smallest + 1.0)
    scaled = (values - low) * (255.0 / (high - low))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
