"""Captions of data folders and of captions files in the formats of `imagecap.data.formats`, for scoring."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.formats import Source, find_source
from imagecap.data.locations import Location
from imagecap.data.records import Problem
from imagecap.data.remote import data_place
from imagecap.data.source_file import source_of_file
from imagecap.errors import ImageCapError
from imagecap.generate.inputs import pictures_of


@dataclass(frozen=True)
class DataRows:
    """Rows of captions, and names of pictures.

    Attributes:
        rows: dicts with `image`, `caption` and perhaps `language`; `image` is the name that `run.py caption` gives the
            picture.
        aliases: the names as the rows write them, with the names in `rows`.
    """

    rows: list[dict[str, Any]]
    aliases: dict[str, str]


def rows_of_data(path: Path) -> DataRows | None:
    """Read the captions of a data folder, or of a captions file or shard; None if it has none of the formats.

    Raises:
        ImageCapError: a row is no row of its format (names it), or the folder has several formats.
    """
    path = data_place(path)
    settings = DataSettings()
    source = find_source(path, settings) if path.is_dir() else source_of_file(path)
    if source is None:
        return None
    names = _names(path) if path.is_dir() or source.format.sharded else {}
    rows: list[dict[str, Any]] = []
    aliases: dict[str, str] = {}
    for written, location, row in _rows(source, settings):
        name = names.get(location, written) if location is not None else written
        rows.append({"image": name, "caption": row.get("caption"), "language": row.get("language")})
        aliases.setdefault(written, name)
    return DataRows(rows, aliases)


def _names(path: Path) -> dict[Location, str]:
    """The names that a caption job gives the pictures of a folder or shard."""
    try:
        return {location: name for name, location in pictures_of(str(path))}
    except ImageCapError:  # there are captions only
        return {}


def _rows(source: Source, settings: DataSettings) -> Iterator[tuple[str, Location | None, dict[str, Any]]]:
    """Yield the picture's name, its place if it is there, and the columns of each row."""
    for file, row, location in source.unchecked(settings):
        if isinstance(row, Problem):
            if row.severity == "error":
                raise ImageCapError(f"{file}: {row}")
            continue
        name = row.value.get("image") if isinstance(row.value, dict) else None
        if not isinstance(name, str) or not name:
            raise ImageCapError(f"{file}: {row.place} names no picture")
        yield name, location, row.value
