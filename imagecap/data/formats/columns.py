"""Which columns hold the picture and the captions, in tables and in the JSON of a picture."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.errors import ImageCapError

IMAGE_NAMES = ("image", "file_name", "filename", "image_name", "image_path", "path", "filepath", "img")
CAPTION_NAMES = ("caption", "text", "sentence", "captions", "sentences", "comment", "description", "raw")
_NUMBERED_CAPTION = re.compile(r"(?:caption|text|sentence|comment)s?_?\d+$")


class Columns:
    """Which columns of a table hold the picture and the captions, found by their names.

    Args:
        file: the table, for messages.
        names: of all columns.
        settings: `image_column` and `caption_columns` name columns of other names.
        image: the column of the picture, where it is known.

    Raises:
        ImageCapError: there are no such columns.
    """

    def __init__(self, file: Path, names: Sequence[str], settings: DataSettings, image: str | None = None) -> None:
        self.file = file
        self.image = image or image_column_of(file, names, settings)
        self.captions = self._captions(names, settings)

    def of(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The rows of captions.json that a row of the table stands for: one per caption."""
        used = {self.image, *self.captions}
        further = {name: value for name, value in row.items() if name not in used}
        image = {"image": row[self.image]} if self.image in row else {}
        written = [row.get(name) for name in self.captions]
        for caption in filled(written) or [None if written[0] is None else ""]:
            yield {**image, "caption": caption, **further}

    def _captions(self, names: Sequence[str], settings: DataSettings) -> list[str]:
        chosen = chosen_captions(settings)
        for name in chosen:
            _require(self.file, name, names, "caption_columns")
        found = chosen or caption_names(names)
        if not found:
            raise ImageCapError(
                f"{self.file} has no column with captions; name one or several, parted by commas, by caption_columns "
                f"(the columns are {_listed(names)})"
            )
        return found


def image_column_of(file: Path, names: Sequence[str], settings: DataSettings) -> str:
    """The column of a table with the names of pictures.

    Args:
        file: the table.
        names: of its columns.
        settings: `image_column` is used.

    Raises:
        ImageCapError: there is no such column.
    """
    if settings.image_column is not None:
        _require(file, settings.image_column, names, "image_column")
        return settings.image_column
    found = next((name for name in IMAGE_NAMES if name in names), None)
    if found is None:
        raise ImageCapError(
            f"{file} has no column with the names of pictures; name it by image_column "
            f"(the columns are {_listed(names)})"
        )
    return found


def chosen_captions(settings: DataSettings) -> list[str]:
    """The names in `caption_columns`; empty if captions are to be recognised by the names of their columns."""
    return [name.strip() for name in (settings.caption_columns or "").split(",") if name.strip()]


def caption_names(names: Iterable[str]) -> list[str]:
    """The columns that hold captions by their names: one, or numbered ones; empty if there are none."""
    names = dict.fromkeys(names)
    for name in CAPTION_NAMES:
        if name in names:
            return [name]
    return [name for name in names if _NUMBERED_CAPTION.match(name.lower())]


def filled(cells: Iterable[Any]) -> list[Any]:
    """The captions in cells that hold one or a list each. Empty cells are captions that the picture does not have."""
    return flat(cell for cell in cells if cell not in (None, "", []))


def flat(cells: Iterable[Any]) -> list[Any]:
    """The items of lists in place of the lists."""
    found: list[Any] = []
    for cell in cells:
        if isinstance(cell, list):
            found += flat(cell)
        else:
            found.append(cell)
    return found


def _require(file: Path, name: str, names: Sequence[str], setting: str) -> None:
    if name not in names:
        raise ImageCapError(f"{file} has no column {name!r}, which {setting} names ({_listed(names)})")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:12]))
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
