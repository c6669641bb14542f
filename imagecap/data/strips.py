"""Decoding a large picture with few copies: it is made upright RGB strip by strip, or not copied at all."""

from collections.abc import Iterator

from PIL import Image, ImageFile

from imagecap.data.images import to_rgb, turn_of

_STRIP_PIXELS = 1_000_000
_SCALED_MODES = ("I", "F")  # their range of values is found by looking at the whole picture
_TURN = Image.Transpose
_SIDEWAYS = (_TURN.TRANSPOSE, _TURN.TRANSVERSE, _TURN.ROTATE_90, _TURN.ROTATE_270)
_FROM_THE_END = (_TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM, _TURN.TRANSVERSE, _TURN.ROTATE_90)


def decode_in_strips(opened: ImageFile.ImageFile, least_side: int | None = None) -> Image.Image | None:
    """Decode a picture to the pixels that `decode_image` gives, in less memory.

    Args:
        opened: from `open_image`.
        least_side: see `load_image`.

    Returns:
        The picture, which is `opened` itself if it is upright RGB; None if it cannot be decoded, or not in strips.
        `load_image` then says why.
    """
    try:
        if least_side is not None:
            opened.draft(None, (least_side, least_side))  # of a format other than JPEG this does nothing
        opened.load()
        turn = turn_of(opened)
        if opened.mode in _SCALED_MODES:
            return None
        if opened.mode == "RGB" and turn is None and not opened.has_transparency_data:
            return opened
        image = Image.new("RGB", opened.size[::-1] if turn in _SIDEWAYS else opened.size)
        top = 0
        for strip in _strips(opened, turn):
            image.paste(strip, (0, top))
            top += strip.height
        return image
    except Exception:  # damaged data can make a decoder raise anything
        return None


def _strips(opened: ImageFile.ImageFile, turn: Image.Transpose | None) -> Iterator[Image.Image]:
    """Yield the upright picture from top to bottom."""
    width, height = opened.size
    length, across = (width, height) if turn in _SIDEWAYS else (height, width)
    step = max(1, _STRIP_PIXELS // across)
    for start in range(0, length, step):
        end = min(start + step, length)
        first, last = (length - end, length - start) if turn in _FROM_THE_END else (start, end)
        box = (first, 0, last, height) if turn in _SIDEWAYS else (0, first, width, last)
        strip = to_rgb(opened.crop(box))
        yield strip if turn is None else strip.transpose(turn)
