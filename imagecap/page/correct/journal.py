"""The journal of a queue: every change is appended to a file and synced before anybody is told that it was made.

The file has one JSON object per line. A line is one entry, whatever number of captions it changes, so that an entry is
there as a whole or not at all (`imagecap/appending.py`).
"""

import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from imagecap.appending import append_lines, json_line, sync_folder
from imagecap.errors import ImageCapError

Entry = dict[str, Any]


class ChangeJournal:
    """Entries in the file `path`, numbered from 1. Memory grows by 8 bytes an entry.

    Args:
        path: the file; it is created if it is missing.

    Raises:
        ImageCapError: the file cannot be read or written. `entries` raises it for a line that is no entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = array("q")  # where each entry begins, in bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            self._file: BinaryIO = path.open("a+b", buffering=0)
            if is_new:
                sync_folder(path.parent)
            self._size = self._find_entries()
        except OSError as error:
            raise ImageCapError(f"{path} cannot be written: {error.strerror}") from None

    def __len__(self) -> int:
        return len(self._starts)

    def entries(self) -> Iterator[Entry]:
        """Yield all entries from the first to the last.

        Raises:
            ImageCapError: a line is no entry (the message names it).
        """
        for number in range(1, len(self) + 1):
            yield self.entry(number)

    def entry(self, number: int) -> Entry:
        """Read one entry."""
        start = self._starts[number - 1]
        end = self._starts[number] if number < len(self) else self._size
        content = os.pread(self._file.fileno(), end - start, start)
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("changes", []), list):
            raise ImageCapError(
                f"{self.path}, line {number}: is no entry of a journal; restore the file, or move its folder away to "
                "start anew"
            )
        return found

    def append(self, entry: Entry) -> int:
        """Write an entry and wait until it is on the disk (fsync).

        Returns:
            The number of the entry.

        Raises:
            ImageCapError: the file cannot be written, for example because the disk is full. Nothing has changed then.
        """
        content = json_line(entry)
        try:
            append_lines(self.path, content)
        except OSError as error:
            raise ImageCapError(
                f"{self.path} cannot be written ({error.strerror}): make room and try again; nothing was changed"
            ) from None
        self._starts.append(self._size)
        self._size += len(content)
        return len(self)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find_entries(self) -> int:
        """Note where the entries begin; returns the size of the file without an incomplete last line."""
        start = 0
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # `append_lines` truncates it
                self._starts.append(start)
                start += len(line)
        return start
