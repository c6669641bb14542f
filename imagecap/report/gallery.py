"""Which pictures to show, and a contact sheet of captioned pictures as one PNG."""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from imagecap.data.images import load_image
from imagecap.files import atomic_write_bytes

Picture = Path | Image.Image
MAX_PIXELS = 200_000_000

_INK, _SOFT, _PAPER = (29, 35, 48), (110, 118, 132), (250, 249, 246)
_NEVER_FIRST = "，。、；：？！）》」』”’…"  # no line of Chinese begins with these
_SIDE, _GAP, _LINES = 260, 22, 4


def rank(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the scored results, best first: true captions before others, then by CIDEr and ROUGE-L."""
    scored = [index for index, result in enumerate(results) if result.get("metrics")]

    def key(index: int) -> tuple[bool, float, float]:
        result = results[index]
        return bool(result.get("true", False)), result["metrics"]["CIDEr"], result["metrics"]["ROUGE_L"]

    return sorted(scored, key=key, reverse=True)


def highlights(results: Sequence[Mapping[str, Any]], count: int) -> dict[str, list[int]]:
    """Indices of the best, typical (around the median) and worst results, `count` of each, none of these twice.

    With them the captions that make most up (objects and colours that no reference names), where there are such.
    """
    order = rank(results)
    count = min(count, len(order) // 3)
    if count == 0:
        return {"all": order or list(range(len(results)))}
    middle = (len(order) - count) // 2
    chosen = {"best": order[:count], "typical": order[middle : middle + count], "worst": order[::-1][:count]}
    inventing = [index for index in order[::-1] if results[index].get("hallucinated")]
    inventing.sort(key=lambda index: -len(results[index]["hallucinated"]))  # stable: of equals the worst first
    return chosen | ({"made_up": inventing[:count]} if inventing else {})


def open_picture(picture: Picture) -> Image.Image:
    """The picture itself, or read from its file."""
    return load_image(picture, MAX_PIXELS) if isinstance(picture, Path) else picture


def gallery_png(pictures: Sequence[Picture], captions: Sequence[str], path: Path, columns: int = 4) -> None:
    """Write one PNG with every picture and its caption below it.

    Chinese needs a font of the system that has it; where there is none, such a caption is left out and said to be.

    Args:
        pictures: files or pictures.
        captions: one each.
        path: the PNG to write.
        columns: pictures side by side.
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
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if max(image.size) < _SIDE:  # drawn small: enlarge, so that the sheet is even
        scale = _SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    square = Image.new("RGB", (_SIDE, _SIDE), (238, 236, 230))
    square.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    return square


def _wrap(text: str, font: Any, width: int, lines: int) -> list[str]:
    """Break at blanks, and anywhere between characters that are not Latin; too long a text ends in "…"."""
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
    """A font that has all characters of the captions; None: there is none, beyond Latin."""
    if all(map(_is_latin, captions)):
        return ImageFont.load_default(18)
    return _chinese_font()


@cache
def _chinese_font() -> Any | None:
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
