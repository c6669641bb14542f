"""Temporary names beside the file or folder that is being written, and what killed processes have left under them.

A file or folder is written under a name like `.final.k3x9w2ab.imagecap-new` and then renamed. A folder that is replaced
is `.final.k3x9w2ab.imagecap-old/old` for an instant. While a process uses such a name it holds a lock (flock) on it, so
that others can tell that it is alive.
"""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

NEW, OLD = ".imagecap-new", ".imagecap-old"


def clear_leftovers(path: Path) -> None:
    """Remove what killed processes have left of their writes to `path`. What a living process uses is left alone.

    A folder that was just being replaced is put back.
    """
    for suffix in (NEW, OLD):
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}{suffix}"):
            handle = _lock(left, wait=False)
            if handle is not None:
                _remove(left, path)
                os.close(handle)


def clear_leftovers_once(path: Path) -> None:
    """Do `clear_leftovers` for what was there when this process first wrote in the folder.

    So the folder is listed once, and not for each of the thousands of files that may be written there.
    """
    if any(name.startswith(f".{path.name}.") for name in _temporary_names(path.parent.absolute())):
        clear_leftovers(path)


@lru_cache(maxsize=64)
def _temporary_names(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.name.endswith((NEW, OLD))]


@contextmanager
def staged(path: Path, suffix: str, *, folder: bool) -> Iterator[Path]:
    """Make a locked file or folder beside `path`, which is removed at the end unless it was renamed."""
    handle = None
    while handle is None:
        prefix = f".{path.name}."
        if folder:
            temporary = Path(tempfile.mkdtemp(suffix, prefix, path.parent))
        else:
            opened, name = tempfile.mkstemp(suffix, prefix, path.parent)
            os.close(opened)
            temporary = Path(name)
        handle = _lock(temporary, wait=True)
        if handle is None and temporary.exists():  # a file system without locks
            break
    try:
        yield temporary
    finally:
        _remove(temporary, path)
        if handle is not None:
            os.close(handle)


def _lock(path: Path, *, wait: bool) -> int | None:
    """Lock a file or folder; None if another process has the lock or has removed it, or there are no locks."""
    handle = None
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except OSError:
        pass
    if handle is not None:
        os.close(handle)
    return None


def _remove(temporary: Path, path: Path) -> None:
    """Remove a temporary file or folder of `path`; put the old folder that is in it back if `path` is missing."""
    if temporary.suffix == OLD and not path.exists():
        with suppress(OSError):
            (temporary / "old").rename(path)
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)
