"""Digests and sizes of picture files that were decoded before: unchanged files are not decoded again.

They lie in an SQLite file in the user's cache folder (`$XDG_CACHE_HOME/imagecap` or `~/.cache/imagecap`), which all
commands and processes of the user share. A file counts as unchanged if its path and its `file_status` are the same. The
cache never makes a command fail: what cannot be read from it is decoded. `IMAGECAP_DIGEST_CACHE=off` in the environment
switches it off.
"""

import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from PIL import __version__ as pillow_version

from imagecap.data.identity import file_status
from imagecap.data.records import PictureFacts
from imagecap.data.remote import RemotePath
from imagecap.files import user_cache_folder

_log = logging.getLogger(__name__)

SETTLED_SECONDS = 2.0
"""A file that was changed this recently may change again within the resolution of its times."""

_SAMPLE = 8  # cached digests of every call that are checked
_LOCK_SECONDS = 5.0  # how long another process that writes is waited for
_COLUMNS = "path BLOB PRIMARY KEY, status TEXT, digest TEXT, width INTEGER, height INTEGER, hash BLOB"


def cached_facts(
    paths: Sequence[Path], max_pixels: int, facts_at: Callable[[Path], PictureFacts | None]
) -> dict[Path, PictureFacts]:
    """Return what is known of the unchanged files.

    Some of them are decoded anew. If one differs, for instance because a disk has lost bits, none of them is used.

    Args:
        paths: absolute paths.
        max_pixels: larger pictures are left out.
        facts_at: decodes a file; None if the file cannot be read.
    """
    found: dict[Path, PictureFacts] = {}

    def look_up(database: sqlite3.Connection) -> None:
        query = "SELECT digest, width, height, hash FROM pictures WHERE path = ? AND status = ?"
        for path in paths:
            key = _key(path)
            row = database.execute(query, key).fetchone() if key is not None else None
            if row is not None and row[1] * row[2] <= max_pixels:
                found[path] = PictureFacts(*row)

    _with_database(look_up)
    for path in random.sample(list(found), min(_SAMPLE, len(found))):
        facts = facts_at(path)
        if facts is None or facts[:3] != found[path][:3]:
            _log.warning("%s is not the picture that the cache of digests knows; all pictures are decoded again", path)
            return {}
    return found


def remember_facts(facts: Mapping[Path, PictureFacts]) -> None:
    """Put what is known of files that have just been decoded into the cache."""
    rows = [(*key, *value) for path, value in facts.items() if is_settled(path) and (key := _key(path)) is not None]
    _with_database(
        lambda database: database.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", rows)
    )


def cache_folder() -> Path | None:
    """The user's cache folder for what was found out about pictures; None if it is switched off or cannot be made."""
    if os.environ.get("IMAGECAP_DIGEST_CACHE", "").lower() == "off":
        return None
    try:
        folder = user_cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        _log.info("the cache folder cannot be used: %s", error)
        return None
    return folder


def _with_database(use: Callable[[sqlite3.Connection], object]) -> None:
    """Call `use` with the opened cache in one transaction, unless the cache is switched off or cannot be used."""
    folder = cache_folder()
    if folder is None:
        return
    try:
        # another version of Pillow may decode other pixels
        file = folder / f"digests-4-pillow-{pillow_version}.sqlite"
        with closing(sqlite3.connect(file, timeout=_LOCK_SECONDS)) as database, database:
            database.execute(f"CREATE TABLE IF NOT EXISTS pictures ({_COLUMNS})")
            use(database)
    except (OSError, sqlite3.Error) as error:
        _log.info("the cache of digests cannot be used: %s", error)


def is_settled(path: Path) -> bool:
    """Whether a file was changed long enough ago for its times to tell whether it changes again."""
    if isinstance(path, RemotePath):
        return True  # a bucket replaces whole files, and tells their versions apart
    try:
        return path.stat().st_ctime < time.time() - SETTLED_SECONDS
    except OSError:
        return False


def _key(path: Path) -> tuple[bytes, str] | None:
    try:
        return os.fsencode(path), file_status(path)
    except OSError:
        return None
