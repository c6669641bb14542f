"""Sidecar text: the captions of a picture lie beside it in a file of the same stem, as taggers and kohya write them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.formats.text_files import text_lines
from imagecap.data.picture_files import pictures_below
from imagecap.data.records import Problem
from imagecap.data.splits import split_named
from imagecap.errors import ImageCapError
from imagecap.printable import printable

_ENDINGS = (".txt", ".caption")
_TAGS = 4  # a caption with this many commas and no word between most of them is a list of tags


class Sidecar(DataFormat):
    """`a.jpg` and `a.txt` or `a.caption`: the first line is the caption.

    Folders `train`, `validation` and `test` at the top are the splits. Pictures without text are left out.
    """

    name = "sidecar"
    title = "text files beside pictures"

    def files(self, folder: Path) -> list[Path]:
        try:
            names = pictures_below(folder)
        except ImageCapError:  # a subfolder that may not be read, in a folder that need not be of this format
            return []
        return [folder] if any(_text_of(folder / name) for name in names) else []

    def reads(self, file: Path) -> bool:
        return False  # its files are folders

    def picture_folders(self, file: Path, folder: Path) -> list[Path]:
        return [file]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        without = further = tags = count = 0
        for name in pictures_below(file):
            text = _text_of(file / name)
            if text is None:
                without += 1
                continue
            place = printable(text.relative_to(file).as_posix())
            try:
                lines = [line.strip() for line in text_lines(text) if line.strip()]
            except ImageCapError:
                yield Problem(None, None, "the file cannot be read as UTF-8 text; save it as UTF-8", place=place)
                continue
            count += bool(lines)
            further += len(lines) > 1
            caption = lines[0] if lines else ""
            tags += _looks_like_tags(caption)
            first = name.partition("/")[0] if "/" in name else ""
            split = split_named(first)
            yield RawRow(place, {"image": printable(name), "caption": caption, **({"split": split} if split else {})})
        for number, what in (
            (without, "pictures have no text file beside them and are left out"),
            (further, "text files have further lines, of which only the first is used"),
        ):
            if number:
                yield Problem(None, None, f"{number} {what}", "warning")
        if count and 2 * tags > count:
            yield Problem(None, None, f"{tags} of {count} captions look like lists of tags", "warning")


def _text_of(picture: Path) -> Path | None:
    """The text file of a picture; None if there is none."""
    return next((file for ending in _ENDINGS if (file := picture.with_suffix(ending)).is_file()), None)


def _looks_like_tags(caption: str) -> bool:
    parts = [part.strip() for part in caption.split(",")]
    return len(parts) > _TAGS and sum(len(part.split()) <= 3 for part in parts) == len(parts)
