"""The journal of a shard that is being captioned: its rows so far, and which picture ends the process.

A process that is killed, or crashes on a picture, leaves the journal, and the next one goes on. The journal notes what
is being read before it is read. After a crash, the pictures that were in the process are suspects: they are captioned
alone, after all others. One on which the process ends twice while it is alone is given up.

The file has one JSON object per line: `{"opened": STATE}` when a process takes the shard, `{"pictures": N}` when its
pictures are listed, `{"reading": N}` before any picture with a smaller number is read, `{"alone": N}` before a suspect
is captioned, `{"row": N, "content": {…}}` when a picture is done, `{"listed": true}` before its errors are listed, and
`{"stopped": true}` if a process is asked to end.
"""

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagecap.appending import json_line
from imagecap.errors import ImageCapError
from imagecap.files import atomic_writer
from imagecap.generate.journal import JournalRow

_READING_STEP = 32  # pictures that one line announces


class ShardJournal:
    """The journal of one shard in the file `path`. The caller holds the lock of the shard.

    Args:
        path: the file. It is made if it is missing.
        state: of the shard; see `ShardedInput.state`. A journal of another state is removed.

    Raises:
        ImageCapError: the file cannot be written.

    Attributes:
        openings: how many processes in a row have ended before they had listed the pictures.
        suspects: numbers of pictures that were in a process when it ended.
        endings: how often a process has ended with a picture that was alone in it.
        errors_listed: whether errors of the shard may be in the list of errors.
    """

    def __init__(self, path: Path, state: str) -> None:
        self._path = path
        self._reset()
        if path.exists() and not self._read(state):
            path.unlink()
            self._reset()
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size
        self._write({"opened": state})

    def _reset(self) -> None:
        self.openings = 0
        self.suspects: set[int] = set()
        self.endings: Counter[int] = Counter()
        self.errors_listed = False
        self._starts = array("q")  # the byte at which the newest row of a picture begins; -1 without one
        self._failed: set[int] = set()
        self._reading = 0
        self._alone: int | None = None

    def listed(self, pictures: int) -> None:
        """Note that the pictures of the shard were listed, and their number."""
        if len(self._starts) != pictures:
            self._starts = array("q", [-1]) * pictures
            self._failed.clear()
        self._write({"pictures": pictures})

    def is_done(self, number: int) -> bool:
        """Whether a picture has a row."""
        return self._starts[number] >= 0

    @property
    def failed(self) -> list[int]:
        """The numbers of the pictures whose newest row is an error, in order."""
        return sorted(self._failed)

    def reading(self, number: int) -> None:
        """Note that a picture is about to be read."""
        if number >= self._reading:
            self._reading = number + _READING_STEP
            self._write({"reading": self._reading})

    def alone(self, number: int) -> None:
        """Note that a suspect is about to be captioned, and no other picture with it."""
        self._write({"alone": number})

    def add(self, numbers: Sequence[int], rows: Sequence[JournalRow]) -> None:
        """Append rows of pictures and wait until they are on the disk (fsync)."""
        content = b""
        for number, row in zip(numbers, rows, strict=True):
            self._note(number, self._size + len(content), row)
            content += json_line({"row": number, "content": row})
        self._append(content)
        os.fsync(self._file.fileno())

    def errors_are_listed(self) -> None:
        """Note that the errors of the shard are about to be added to the list of errors."""
        self._write({"listed": True})
        self.errors_listed = True

    def rows(self) -> Iterator[JournalRow]:
        """Yield the newest row of every picture, in the order of the pictures."""
        with self._path.open("rb") as file:
            for start in self._starts:
                if start >= 0:
                    file.seek(start)
                    yield json.loads(file.readline())["content"]

    def stop(self) -> None:
        """Note that this process was asked to end, so that no picture is suspected, and close the file."""
        if not self._file.closed:
            with suppress(ImageCapError):
                self._write({"stopped": True})
            self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def remove(self) -> None:
        """Close and remove the file, after the rows have been written to their final place."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _note(self, number: int, start: int, row: Mapping[str, Any]) -> None:
        self._starts[number] = start
        (self._failed.add if "error" in row else self._failed.discard)(number)

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._append(json_line(entry))

    def _append(self, content: bytes) -> None:
        try:
            written = self._file.write(content)
            if written != len(content):
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise ImageCapError(
                f"{self._path} cannot be written ({error.strerror}): make room and start the same command again; it "
                "goes on where it was"
            ) from None
        self._size += len(content)

    def _read(self, state: str) -> bool:
        """Read the file and truncate an incomplete last line; False if it belongs to another state of the shard."""
        start = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    if not self._take(json.loads(line), start, state):
                        return False
                except (ValueError, KeyError, IndexError):  # not written by this class
                    return False
                start += len(line)
        if start < self._path.stat().st_size:
            os.truncate(self._path, start)
        self._process_ended()
        return True

    def _take(self, entry: Mapping[str, Any], start: int, state: str) -> bool:
        if "opened" in entry:
            self._process_ended()
            self.openings += 1
            return bool(entry["opened"] == state)
        if "pictures" in entry:
            self.openings = 0
            if len(self._starts) not in (0, entry["pictures"]):
                return False
            self._starts = self._starts or array("q", [-1]) * entry["pictures"]
        elif "row" in entry:
            self._alone = None
            self._note(entry["row"], start, entry["content"])
        elif "reading" in entry:
            self._reading = entry["reading"]
        elif "alone" in entry:
            self._alone = entry["alone"]
        elif "listed" in entry:
            self.errors_listed = True
        elif "stopped" in entry:
            self.openings, self._reading, self._alone = 0, 0, None
        return True

    def _process_ended(self) -> None:
        """Suspect the pictures that the process had when it ended, unless it was asked to end."""
        if self._alone is not None:
            self.endings[self._alone] += 1
        for number in range(min(self._reading, len(self._starts))):
            if not self.is_done(number):
                self.suspects.add(number)
        self._reading, self._alone = 0, None


def write_journal(path: Path, state: str, pictures: int, rows: Iterator[tuple[int, JournalRow]]) -> None:
    """Write a journal with the rows of some pictures, as if a process had stopped after them.

    Args:
        path: the file.
        state: of the shard.
        pictures: their number.
        rows: numbers of pictures, and their rows.
    """
    with atomic_writer(path) as file:
        file.write(json_line({"opened": state}) + json_line({"pictures": pictures}) + json_line({"listed": True}))
        for number, row in rows:
            file.write(json_line({"row": number, "content": row}))
        file.write(json_line({"stopped": True}))
