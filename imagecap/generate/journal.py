"""The journal of a bulk job: finished rows are appended to a file, so that an interrupted job can resume.

The file has one JSON object per line (JSON Lines). A process that is killed while writing leaves at most one incomplete
line. The next process truncates it and captions its picture again, so that no row is missing or duplicated.

A picture that has changed, or can be read at last, gets a new row at the end. `compact` then puts it in the place of
the old one. Memory grows by 16 bytes a picture.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from imagecap.appending import json_line
from imagecap.data.name_set import NameSet
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_writer

JournalRow = dict[str, Any]


class Journal:
    """The finished rows of a job in the file `path`, and the description of the job in the file `NAME.job` beside it.

    Args:
        path: the file of the rows; it is created by `open`.
        job: description of the job, such as model and settings. A job resumes only if its description is the same.

    Raises:
        ImageCapError: the file belongs to a job with another description, or is not a journal.

    Attributes:
        path: the file of the rows.
        source: what the job that made the file captioned; None if there is no such file, or it does not say.
        done: names (`image`) of the pictures that have a row.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self.source: str | None = None
        self.done = NameSet()
        self._job = dict(job)
        self._job_file = path.with_name(f"{path.name}.job")
        self._file: BinaryIO | None = None
        self._size = 0
        self._newest: dict[str, int] = {}  # where the newest row of a picture begins, if it has several
        if path.exists():
            self._require_same()
            for start, row in self._read():
                self._note(row["image"], start)

    def open(self, source: str) -> None:
        """Open the file to add rows, and write down what the job captions."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(self._job_file, {**self._job, "input": source})
        self._file = self.path.open("ab")
        self._size = self.path.stat().st_size

    def rows(self) -> Iterator[JournalRow]:
        """Yield the newest row of every picture; at the end, truncate an incomplete last line."""
        if self.path.exists():
            for start, row in self._read():
                if self._newest.get(row["image"], start) == start:
                    yield row

    def add(self, rows: Sequence[JournalRow]) -> None:
        """Append rows and wait until they are on the disk (fsync).

        Raises:
            ImageCapError: the file cannot be written, for example because the disk is full. Earlier rows are kept.
        """
        assert self._file is not None
        content = b""
        for row in rows:
            self._note(row["image"], self._size + len(content))
            content += json_line(row)
        try:
            self._file.write(content)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ImageCapError(
                f"{self.path} cannot be written ({error.strerror}): make room and start the same command again; "
                "it goes on where it was"
            ) from None
        self._size += len(content)

    def compact(self) -> None:
        """Put the newest row of every picture in the place of its first one, and leave out the others."""
        if not self._newest:
            return
        self.close()
        written: set[str] = set()
        with atomic_writer(self.path) as new, self.path.open("rb") as old:
            for start, row in self._read():
                name = row["image"]
                if name in written:
                    continue
                if name in self._newest:
                    written.add(name)
                    start = self._newest[name]
                old.seek(start)
                new.write(old.readline())
        self._newest = {}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Close and delete both files, after the rows have been written to their final place."""
        self.close()
        self.path.unlink()
        self._job_file.unlink()

    def _note(self, name: str, start: int) -> None:
        """Note that a row of a picture begins at a byte of the file."""
        if self.done.add(name):
            self._newest[name] = start

    def _read(self) -> Iterator[tuple[int, JournalRow]]:
        """Yield all rows with the bytes at which they begin; at the end, truncate an incomplete last line."""
        start = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict) or not isinstance(row.get("image"), str):
                    raise ImageCapError(f"{self.path}, line {number}: is no row of a caption job; move the file away")
                yield start, row
                start += len(line)
        if start < self.path.stat().st_size:
            os.truncate(self.path, start)

    def _require_same(self) -> None:
        """Raise an error if `NAME.job` is missing or describes another job; read what the job captioned."""
        try:
            known = json.loads(self._job_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if not isinstance(known, dict):
            raise ImageCapError(
                f"{self.path} is there already and no caption job made it; choose another --output_file"
            )
        self.source = known.get("input")
        differing = [name for name in self._job if known.get(name) != self._job[name]]
        if differing:
            name = differing[0]
            raise ImageCapError(
                f"{self.path} was made by another job ({name} was {known.get(name)}, now {self._job[name]}); choose "
                "another --output_file, or remove it to start anew"
            )
