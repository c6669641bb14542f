"""The journal of a bulk job: finished rows are appended to a file, so that an interrupted job can resume.

The file has one JSON object per line (JSON Lines). A process that is killed while writing leaves at most one incomplete
line. The next process truncates it and captions its picture again, so that no row is missing or duplicated.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json

JournalRow = dict[str, Any]


class Journal:
    """The finished rows of a job in the file `path`, and the description of the job in the file `NAME.job` beside it.

    Args:
        path: the file of the rows; it is created if it does not exist.
        job: description of the job, such as model and settings. A job resumes only if its description is the same.

    Raises:
        ImageCapError: the file belongs to a job with another description, or is not a journal.

    Attributes:
        path: the file of the rows.
        done: names (`image`) of the pictures that have a row when the journal is opened.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self._job_file = path.with_name(f"{path.name}.job")
        self._require_same(job)
        self.done = {row["image"] for row in self.rows()} if path.exists() else set()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(self._job_file, dict(job))
        self._file = path.open("ab")

    def rows(self) -> Iterator[JournalRow]:
        """Yield all finished rows; at the end, truncate an incomplete last line."""
        complete_bytes = 0
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
                complete_bytes += len(line)
                yield row
        if complete_bytes < self.path.stat().st_size:
            os.truncate(self.path, complete_bytes)

    def add(self, rows: Sequence[JournalRow]) -> None:
        """Append rows and wait until they are on the disk (fsync).

        Raises:
            ImageCapError: the file cannot be written, for example because the disk is full. Earlier rows are kept.
        """
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            self._file.write(lines.encode(errors="backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ImageCapError(
                f"{self.path} cannot be written ({error.strerror}): make room and start the same command again; "
                "it goes on where it was"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete both files, after the rows have been written to their final place."""
        self.close()
        self.path.unlink()
        self._job_file.unlink()

    def _require_same(self, job: Mapping[str, Any]) -> None:
        """Raise an error if the file exists and `NAME.job` differs from `job`."""
        if not self.path.exists():
            return
        try:
            known = json.loads(self._job_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ImageCapError(
                f"{self.path} is there already and no caption job made it; choose another --output_file"
            ) from None
        differing = [name for name in job if known.get(name) != job[name]]
        if differing:
            name = differing[0]
            raise ImageCapError(
                f"{self.path} was made by another job ({name} was {known.get(name)}, now {job[name]}); choose another "
                "--output_file, or remove it to start anew"
            )
