"""One process at a time."""

import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imagecap.errors import ImageCapError

# The file system has no locks: some of networks, and some of user space.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class HeldError(ImageCapError):
    """Another process holds the lock."""


@contextmanager
def exclusive(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock on the file `path`; the system releases it when the process ends, however it ends.

    The lock file belongs beside what it protects: on a network file system, other hosts see it there too. It is removed
    at the end. One that a killed process left behind is no obstacle.

    Args:
        path: the lock file; made if it is missing. It may not be a link.
        doing: what is being guarded, for the message: "training in checkpoints/".
        wait: wait for another holder instead of refusing.

    Raises:
        HeldError: another process holds the lock (names it).
        ImageCapError: the file cannot be made.
    """
    descriptor = _acquire(path, doing, wait)
    try:
        with suppress(OSError):  # a full disk: only the message to others is lost
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        with suppress(OSError):  # while the lock is held, so that no other process holds the file that is removed
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked.

    Raises:
        OSError: no file can be made in it.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
    return True


def _acquire(path: Path, doing: str, wait: bool) -> int:
    """The descriptor of the locked file."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ImageCapError(f"{doing}: the lock file {path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise HeldError(_refusal(doing, holder)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            print(f"warning: {path}: this file system has no locks; run {doing} only once at a time", file=sys.stderr)
            return descriptor
        except BaseException:  # interrupted while waiting
            os.close(descriptor)
            raise
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # the process that held it has removed it: another one may hold a new file


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _refusal(doing: str, holder: str) -> str:
    try:
        os.kill(int(holder), 0)
    except (ValueError, ProcessLookupError):
        return f"{doing} is under way in another process, perhaps on another machine (PID {holder}); wait for it"
    except PermissionError:
        pass  # a process of another user
    return f"{doing} is under way in another process (PID {holder}); wait for it or stop it (kill {holder})"
