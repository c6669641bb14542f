"""What a bulk job has done so far: rows appended to a file, so that an interrupted job goes on where it was.

The file holds one JSON object a line. A process that is killed while writing leaves at most one unfinished line, which
the next one cuts off: its picture is captioned again. So no row is lost and none comes twice.
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
    """Rows of a job in `path`, and beside it in `NAME.job` what the job is.

    Args:
        path: file with one row a line.
        job: what must be equal for a job to go on: model, settings.

    Raises:
        ImageCapError: the file belongs to another job, or holds something else.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self._about = path.with_name(f"{path.name}.job")
        self._require_same(job)
        self.done = {row["image"] for row in self.rows()} if path.exists() else set()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(self._about, dict(job))
        self._file = path.open("ab")

    def rows(self) -> Iterator[JournalRow]:
        """All finished rows; cuts an unfinished last line off."""
        good = 0
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
                good += len(line)
                yield row
        if good < self.path.stat().st_size:
            os.truncate(self.path, good)

    def add(self, rows: Sequence[JournalRow]) -> None:
        """Append rows; they are on the disk when this returns.

        Raises:
            ImageCapError: the disk is full, say; what was there before is kept.
        """
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            self._file.write(lines.encode())
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
        """Forget the job: its rows are elsewhere now."""
        self.close()
        self.path.unlink()
        self._about.unlink()

    def _require_same(self, job: Mapping[str, Any]) -> None:
        if not self.path.exists():
            return
        try:
            known = json.loads(self._about.read_text(encoding="utf-8"))
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
