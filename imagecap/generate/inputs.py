"""The pictures of a bulk job, given as a folder, a glob pattern, a list of paths, a captions file or one file."""

import codecs
import fnmatch
import glob
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.folders import entries_of, walk
from imagecap.data.formats import FORMATS, Source, find_source
from imagecap.data.formats.webdataset import WebDataset, archives_in
from imagecap.data.picture_files import is_picture_name, pictures_below
from imagecap.data.remote import RemotePath, data_place, is_url
from imagecap.data.source_file import source_of_file
from imagecap.errors import ImageCapError
from imagecap.files import expand_user, natural_key, read_json
from imagecap.generate.pictures import Picture, Pictures
from imagecap.printable import file_name


def pictures_of(source: str, settings: DataSettings | None = None) -> Pictures:
    r"""Name and place of every picture, without duplicate names, in a fixed order.

    Args:
        source: one of these. A file or folder of this very name comes before a pattern.

            - a folder: all pictures in it and in its subfolders, named by their relative paths. Links to folders are
              followed. A folder without picture files may hold shards (see `imagecap.data.formats`);
            - a shard: the pictures in it;
            - the URL of a folder with shards, or of a shard, in a bucket;
            - a `.txt` file: one path per line, relative to the folder of the file, or to the current folder if none of
              the paths leads to a file from there. Blanks around a path, quotes around it and lines that start with
              `#` are left out, unless a file of this very name exists. The paths may be separated by NUL characters;
            - a captions file in one of `imagecap.data.formats`: the pictures that it names;
            - a `.json` file: a list of rows; the path in `image` is relative to the folder `images` beside the file,
              or to the folder of the file if there is no such folder;
            - any other file: this picture;
            - a glob pattern with `*`, `?` or `[`: the pictures that it matches. `**` is any number of folders.
        settings: `images_path` and `image_column` are used for captions files, and `format` for shards.

    Bytes of a file name that are not UTF-8 are `\xNN` in the name. The pictures are not opened, and captions are not
    checked: an unreadable file is found when it is captioned.

    Raises:
        ImageCapError: `source` does not exist, or has no pictures, or two of its files would have the same name.
    """
    path = data_place(source) if is_url(source) else expand_user(source)
    settings = settings or DataSettings()
    if not source.strip():
        raise ImageCapError("no pictures are named: give a folder, a pattern, a list (.txt) or a captions file (.json)")
    if path.is_dir():
        names = [] if isinstance(path, RemotePath) else pictures_below(path)
        pictures = Pictures(((name, path / name) for name in names), path)
        pictures = pictures or _in_shards(path, settings)
    elif path.is_file():
        pictures = _named_by(path, settings)
    elif isinstance(path, RemotePath):
        raise ImageCapError(f"{source} does not exist; name a folder with shards in a bucket, or one of its shards")
    elif glob.has_magic(source):
        pictures = Pictures(_matching(path), Path())
    else:
        raise ImageCapError(
            f"{source} is neither a folder, a pattern, a list (.txt), a captions file (.json) nor a file"
        )
    if not pictures:
        raise ImageCapError(f"there is no picture in {source}")
    return pictures


def shards_of(source: str, settings: DataSettings | None = None) -> Source | None:
    """The shards that `pictures_of` would read, with their format; None if it would read no shards.

    Raises:
        ImageCapError: a folder cannot be read, or it is not clear which files count.
    """
    path = data_place(source) if is_url(source) else expand_user(source)
    settings = settings or DataSettings()
    remote = isinstance(path, RemotePath)
    found = None
    if source.strip() and path.is_dir() and (remote or not pictures_below(path)):
        found = _shards_in(path, settings)
    elif path.is_file() and (remote or not is_picture_name(path)):
        found = source_of_file(path)
    return found if found and found.format.sharded and found.files else None


def _in_shards(folder: Path, settings: DataSettings) -> Pictures:
    """The pictures in the shards of a folder, which need no captions; none if it has no shards."""
    source = _shards_in(folder, settings)
    return Pictures(source.pictures(settings) if source.format.sharded else (), rename=True)


def _shards_in(folder: Path, settings: DataSettings) -> Source:
    """The captions files of a folder without picture files; its archives if it has none."""
    folder = data_place(folder)
    if settings.format != "auto" and not FORMATS[settings.format].sharded:
        settings = settings.model_copy(update={"format": "auto"})  # that of the data to train on
    source = find_source(folder, settings)
    if source is None:
        source = Source(FORMATS[WebDataset.name], folder, archives_in(folder))
    return source


def _named_by(path: Path, settings: DataSettings) -> Pictures:
    """The pictures that a file names or holds, or the one that it is."""
    if is_picture_name(path) and not isinstance(path, RemotePath):
        return Pictures([(path.name, path)], path.parent)
    source = source_of_file(path)
    if source is not None:
        return Pictures(source.pictures(settings), rename=source.format.sharded)
    if path.suffix.lower() == ".json":
        folder, found = _read_captions_file(path)
        return Pictures(found, folder)
    if path.suffix.lower() == ".txt":
        place, listed = _read_list(path)
        return Pictures(listed, place)
    return Pictures([(path.name, path)], path.parent)


def _matching(pattern: Path) -> list[Picture]:
    """The pictures that a pattern matches, in natural order."""
    start, parts = (Path(pattern.anchor), pattern.parts[1:]) if pattern.anchor else (Path(), pattern.parts)
    names = {str(path) for path in _matches(start, parts) if is_picture_name(path.name)}
    return [(name, Path(name)) for name in sorted(names, key=natural_key)]


def _matches(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """The files below a folder whose relative paths match the parts of a pattern.

    A part that is the name of a file or folder stands for it alone, also if it has brackets. `glob.glob` would take the
    brackets for a pattern, and follow a loop of links 40 times.
    """
    part, *rest = parts
    if part == "**":
        for below, names in walk(folder):
            if rest:
                yield from _matches(below, rest)
            else:
                yield from (below / name for name in names)
        return
    if os.path.lexists(folder / part):
        names = [part]
    elif glob.has_magic(part):
        entries = [entry.name for entry in entries_of(folder)]
        names = [name for name in fnmatch.filter(entries, part) if part.startswith(".") or not name.startswith(".")]
    else:
        names = []
    for name in names:
        path = folder / name
        if rest and path.is_dir():
            yield from _matches(path, rest)
        elif not rest and path.is_file():
            yield path


def _read_captions_file(path: Path) -> tuple[Path, Iterator[Picture]]:
    """The folder of the pictures that rows name, and the pictures; no other column is needed."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("image"), str) for row in rows
    ):
        raise ImageCapError(f"{path} must hold a list of rows with `image`")
    images = path.parent / "images"
    folder = images if images.is_dir() else path.parent
    names = [row["image"] for row in rows]
    return folder, ((name, folder / (_existing(folder, (name, file_name(name))) or name)) for name in names)


def _read_list(path: Path) -> tuple[Path, list[Picture]]:
    """The folder from which a list of paths starts, and its pictures; see `pictures_of`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ImageCapError(f"{path} cannot be read: {error.strerror}") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = raw.decode("utf-16", "replace")
    else:
        text = raw.decode("utf-8-sig", "surrogateescape")  # `find` writes the bytes of a name as they are
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    written = [(_plain(line), _forms(line)) for line in lines if line.strip()]
    # The first folder from which one of the paths leads to a file is that of all of them.
    places = (path.parent, Path())
    place = next((place for place in places if any(_existing(place, forms) for _, forms in written)), None)
    first = next((plain for plain, _ in written if not plain.startswith("#")), None)
    if place is None and first is not None:
        raise ImageCapError(
            f"no path in {path} leads to a file, neither from the folder of the list nor from the current folder; the "
            f"first is {first}"
        )
    place = place or path.parent
    found: list[Picture] = []
    for plain, forms in written:
        comment = plain.startswith("#")
        name = plain if len(forms) == 1 and not comment else _existing(place, forms) or ("" if comment else plain)
        if name:
            found.append((name, place / name))
    return place, found


def _plain(line: str) -> str:
    """A line of a list without the blanks and quotes around it."""
    bare = line.strip()
    return bare[1:-1] if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'" else bare


def _forms(line: str) -> tuple[str, ...]:
    """What a line of a list may name: itself, or itself without blanks and quotes, in either Unicode form."""
    plain = _plain(line)
    normal = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((line, line.strip(), plain, *normal, file_name(plain))))


def _existing(folder: Path, names: Iterable[str]) -> str | None:
    """The first of the names of which there is a file."""
    return next((name for name in names if os.path.isfile(folder / name)), None)  # noqa: PTH113  (any characters)
