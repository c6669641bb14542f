"""Files of lines to which rows are appended, each of which is on the disk before anybody is told of it.

Nothing in such a file is ever changed. A process that is killed while it writes leaves at most one incomplete last
line, of which nobody was told: readers leave it out, and the next writer truncates it.
"""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 65536  # bytes that are searched at once for the end of a line


def json_line(row: Any) -> bytes:
    r"""A row as one line of JSON with its line end, in UTF-8; lone surrogates become `\udNNN`."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def append_lines(path: Path, lines: bytes) -> None:
    """Append complete lines and wait until they are on the disk (fsync). An incomplete last line is truncated first.

    Only one process or thread at a time may append.

    Args:
        path: the file; it is made if it is missing.
        lines: what to append; it ends with a line end.

    Raises:
        OSError: the file cannot be written, for example because the disk is full. Its complete lines are as before.
    """
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        start = _end_of_last_line(file, size)
        if start < size:
            file.truncate(start)
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[file.write(rest) or 0 :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)  # a full disk may have taken a part
            raise
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    """The byte after the last line end of an open file, which is searched from its end."""
    end = size
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
