"""Errors of the operating system and of MLflow's store, as sentences for the user."""

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagecap.errors import EXIT_FAILED, EXIT_USER_ERROR, ImageCapError, one_line

# Errors by which a device or a quota has no room.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Errors that may be gone the next time.
_PASSING = _FULL | {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLCK, errno.EMFILE, errno.ENFILE, errno.EBUSY}
# Errors that are looked for among the exceptions that led to another one. A file that is missing is not among them:
# libraries look for files that need not exist.
_LED_TO = _FULL | {errno.EACCES, errno.EPERM, errno.EROFS}
_STORE_LIBRARIES = frozenset({"mlflow", "requests", "sqlalchemy", "sqlite3"})
_NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")
_SQLITE = {
    "attempt to write a readonly database": errno.EACCES,
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "unable to open database file": errno.EACCES,
}
_HARDLY_ANY = 1 << 20  # bytes


def system_error(error: BaseException) -> tuple[str, int] | None:
    """A sentence for the user and the exit code if the operating system or MLflow's store refused something.

    Libraries wrap the errors of the system in exceptions of their own. So the number of the error is also read from
    texts (`[Errno 28]`, `(os error 28)`), and from the exceptions that led to `error`.

    Returns:
        None for any other exception, which is a bug.
    """
    found = _refusal(error)
    if found is not None:
        status = EXIT_FAILED if found.errno in _PASSING else EXIT_USER_ERROR
        return _full_disk(found) if found.errno in _FULL else _sentence(found), status
    if type(error).__module__.partition(".")[0] in _STORE_LIBRARIES:
        return f"MLflow's store failed: {one_line(error, 400)}", EXIT_FAILED
    return None


@contextmanager
def ending_in_a_sentence() -> Iterator[None]:
    """Context of a small program: an error that the user can mend ends it with a sentence instead of a traceback."""
    try:
        yield
    except Exception as error:
        found = (str(error), error.exit_status) if isinstance(error, ImageCapError) else system_error(error)
        if found is None:
            raise
        print(f"error: {found[0]}", file=sys.stderr)
        sys.exit(found[1])


def _refusal(error: BaseException) -> OSError | None:
    """The error of the operating system in `error`, or in an exception that led to it."""
    found = _own_refusal(error)
    cause: BaseException | None = error
    while found is None and cause is not None:
        cause = cause.__cause__ or cause.__context__
        earlier = _own_refusal(cause) if cause is not None else None
        if earlier is not None and earlier.errno in _LED_TO:
            found = earlier
    return found


def _own_refusal(error: BaseException) -> OSError | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error
    text = str(error)
    name = None
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        _, name, text = (str(part) for part in error.args[0][0])
    numbers = _NUMBER.search(text)
    number = int(numbers[1] or numbers[2]) if numbers else None
    if number is None:
        number = next((code for words, code in _SQLITE.items() if words in text), None)
        name = "MLflow's database" if number is not None else None
    return None if number is None else OSError(number, os.strerror(number), name)


def _full_disk(error: OSError) -> str:
    name = error.filename2 or error.filename  # of a copy, the second one is the target
    where = f" {_shown(name)}" if name else ""
    other = f", or set TMPDIR to a folder with room (now {tempfile.gettempdir()})" if _in_temporary(name) else ""
    return f"{_reason(error)}: cannot write{where}; make room{other} and run the same command again"


def _sentence(error: OSError) -> str:
    name = error.filename2 or error.filename
    if name is None and error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return "there is no folder for temporary files: set TMPDIR to a folder that this user may write to"
    where = _shown(name) if name else "a file or connection"
    if error.errno == errno.EROFS:
        return f"{where} cannot be written: {_reason(error)}; name another folder"
    if error.errno in {errno.EACCES, errno.EPERM}:
        hint = " (or set TMPDIR to a folder that this user may write to)" if _in_temporary(name) else ""
        return f"{where} cannot be used: {_reason(error)}; give this user the right to it, or name another{hint}"
    return f"{where} cannot be used: {_reason(error)}"


def _reason(error: OSError) -> str:
    return (error.strerror or os.strerror(error.errno or 0)).lower()


def _shown(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _in_temporary(name: object) -> bool:
    """Whether a file is a temporary one by its place and name; without a name, whether that place is full."""
    try:
        folder = Path(tempfile.gettempdir()).resolve()
        if name is None:
            return shutil.disk_usage(folder).free < _HARDLY_ANY
        return Path(_shown(name)).relative_to(folder).parts[0].startswith((tempfile.gettempprefix(), "imagecap-"))
    except (OSError, ValueError, IndexError):
        return False
