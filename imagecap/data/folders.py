"""Listing a folder with everything below it. Links to folders are followed, and each folder is listed once."""

import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from imagecap.errors import ImageCapError
from imagecap.files import natural_key

_log = logging.getLogger(__name__)


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield `root` and every folder below it, each with the names of its files. Hidden files and folders are left out.

    Links are followed after all folders that are no links, so that a folder with two names has the one without a link.
    A link to a folder that has been listed is left out with a warning. So a loop of links ends. The order is that of
    names, not that of the disk.

    Raises:
        ImageCapError: a folder cannot be read.
    """
    listed: dict[tuple[int, int], Path] = {}
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        try:
            status = folder.stat()
        except OSError as error:
            raise _unreadable(folder, error) from None
        earlier = listed.setdefault((status.st_dev, status.st_ino), folder)
        if earlier != folder:
            _log.warning("%s is left out: it is the folder %s, which is read already", folder, earlier)
            continue
        files: list[str] = []
        inner: list[tuple[str, deque[Path]]] = []
        for entry in _entries(folder):
            if entry.name.startswith("."):
                continue
            if not is_folder(entry):
                files.append(entry.name)
            else:
                inner.append((entry.name, links if entry.is_symlink() else folders))
        for name, later in sorted(inner, key=lambda each: natural_key(each[0])):
            later.append(folder / name)
        files.sort(key=natural_key)
        yield folder, files


def entries_of(folder: Path) -> "list[os.DirEntry[str]]":
    """The entries of a folder.

    Raises:
        ImageCapError: the folder cannot be read.
    """
    return list(_entries(folder))


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise _unreadable(folder, error) from None


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder and the links to folders, by name, without hidden ones; none if it may not be read."""
    try:
        entries = entries_of(folder)
    except ImageCapError:
        return []
    return sorted(folder / entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder or a link to one. A link to itself is neither."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a file or a link to one. A link to itself is neither."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_same(folder: Path, other: Path) -> bool:
    """Whether two paths lead to the same folder, as with a link `images` to the folder that it is in."""
    try:
        return folder.samefile(other)
    except OSError:
        return False


def _unreadable(folder: Path, error: OSError) -> ImageCapError:
    return ImageCapError(f"the folder {folder} cannot be read: {error.strerror}")
