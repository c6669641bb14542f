"""A contact sheet of pictures with their captions, as one PNG file."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from imagecap.data.images import load_image
from imagecap.data.locations import Location
from imagecap.files import atomic_write_bytes

Picture = Location | Image.Image
MAX_PIXELS = 200_000_000

_INK, _SOFT, _PAPER = (29, 35, 48), (110, 118, 132), (250, 249, 246)
_NEVER_FIRST = "，。、；：？！）》」』”’…"  # Chinese punctuation that never begins a line
_SIDE, _GAP, _LINES = 260, 22, 4


def open_picture(picture: Picture) -> Image.Image:
    """Read a picture from its file; an image is returned as it is."""
    return picture if isinstance(picture, Image.Image) else load_image(picture, MAX_PIXELS)


def gallery_png(pictures: Sequence[Picture], captions: Sequence[str], path: Path, columns: int = 4) -> None:
    """Write a contact sheet: a grid of pictures, each with its caption below.

    Chinese captions need a system font with Chinese characters. Without one, a remark takes the caption's place.

    Args:
        pictures: files or images.
        captions: one caption per picture; at most four lines of each are shown.
        path: the PNG file to write.
        columns: number of pictures side by side.
    """
    text_font, note_font = _font(captions), ImageFont.load_default(16)
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    line_height = 24
    cell = _SIDE + 10 + _LINES * line_height
    sheet = Image.new("RGB", (columns * (_SIDE + _GAP) + _GAP, rows * (cell + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = _GAP + index % columns * (_SIDE + _GAP)
        top = _GAP + index // columns * (cell + _GAP)
        sheet.paste(_square(open_picture(picture)), (left, top))
        if text_font is None and not _is_latin(caption):
            font, lines, ink = note_font, ["(no font here has", "these characters)"], _SOFT
        else:
            font = text_font or note_font
            lines, ink = _wrap(caption, font, _SIDE, _LINES), _INK
        for number, line in enumerate(lines):
            draw.text((left, top + _SIDE + 10 + number * line_height), line, font=font, fill=ink)
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    atomic_write_bytes(path, content.getvalue())


def _square(image: Image.Image) -> Image.Image:
    """The whole picture, as large as a square cell allows, on a grey ground."""
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if max(image.size) < _SIDE:  # `thumbnail` only shrinks
        scale = _SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    square = Image.new("RGB", (_SIDE, _SIDE), (238, 236, 230))
    square.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    return square


def _wrap(text: str, font: Any, width: int, lines: int) -> list[str]:
    """Break a text into lines of at most `width` pixels; a text that needs more than `lines` ends in "…"."""
    found, line = [], ""
    for piece in _pieces(text):
        if line and font.getlength((line + piece).rstrip()) > width:
            found.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    found.append(line.rstrip())
    if len(found) > lines:
        last = found[lines - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        found = [*found[: lines - 1], last + "…"]
    return found


def _pieces(text: str) -> list[str]:
    """Split a text where a line may end: after blanks, and between characters of which one is not Latin."""
    pieces: list[str] = []
    for character in text:
        if not pieces:
            pieces.append(character)
        elif character in _NEVER_FIRST or (
            _is_latin(character) and _is_latin(pieces[-1][-1]) and not pieces[-1].endswith(" ")
        ):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def _is_latin(text: str) -> bool:
    return all(character < "\u0250" or "\u2000" <= character < "\u2070" for character in text)


def _font(captions: Sequence[str]) -> Any | None:
    """A font with all characters of the captions; None where no font has them."""
    if all(map(_is_latin, captions)):
        return ImageFont.load_default(18)
    return chinese_font()


@cache
def chinese_font() -> Any | None:
    """A system font with Chinese characters; None where there is none."""
    from matplotlib import font_manager

    names = ("CJK", "PingFang", "Hiragino", "Heiti", "YaHei", "SimHei", "SimSun", "WenQuanYi", "Droid Sans Fallback")
    known = sorted(font_manager.fontManager.ttflist, key=lambda each: (each.weight not in (400, "normal"), each.fname))
    for name in names:
        for each in known:
            if name.lower() in each.name.lower():
                try:
                    return ImageFont.truetype(each.fname, 18)
                except OSError:  # matplotlib's list of fonts outlives uninstalled ones
                    continue
    return None
