"""One process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagecap.errors import ImageCapError


@contextmanager
def exclusive(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock on the file `path`; the system releases it when the process ends, however it ends.

    Args:
        path: the lock file; made if it is missing, and left where it is.
        doing: what is being guarded, for the message: "training in checkpoints/".
        wait: wait for another holder instead of refusing.

    Raises:
        ImageCapError: another process holds the lock; names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ImageCapError(
                f"{doing} is under way in another process (PID {holder}); wait for it or stop it (kill {holder})"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
