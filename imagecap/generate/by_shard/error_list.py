"""The list of errors of a job by shard: pictures and shards that failed twice.

It is the file `errors.jsonl`, or in a bucket, where nothing can be appended, a file for each shard in `errors/`. A row
has `shard`, the name of the shard, and `error`. The row of a picture has `image` too; one without it says that the
whole shard could not be captioned.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from imagecap.appending import append_lines, json_line
from imagecap.data.remote import RemotePath
from imagecap.files import atomic_write_bytes, atomic_writer
from imagecap.generate.journal import JournalRow
from imagecap.locks import exclusive


class Errors(ABC):
    """The errors of a job."""

    @abstractmethod
    def add(self, rows: Sequence[JournalRow]) -> None:
        """Append rows of a shard of which the list has none, and wait until they are on the disk."""

    @abstractmethod
    def replace(self, shard: str, rows: Sequence[JournalRow]) -> None:
        """Put rows in the place of those of a shard."""

    @abstractmethod
    def rows(self) -> Iterator[JournalRow]:
        """Yield the rows. An incomplete last one is left out."""

    def pictures(self) -> Counter[str]:
        """How many pictures of each shard have an error."""
        return Counter(row["shard"] for row in self.rows() if "image" in row)

    def shards(self) -> set[str]:
        """Names of the shards that could not be captioned."""
        return {row["shard"] for row in self.rows() if "image" not in row}


class ErrorList(Errors):
    """The errors of a job in a file that several processes write.

    Args:
        path: the file. It is made with the first error.
        locked: whether the file system has locks.
    """

    def __init__(self, path: Path, *, locked: bool = True) -> None:
        self.path = path
        self._locked = locked

    def add(self, rows: Sequence[JournalRow]) -> None:
        if not rows:
            return
        with self._exclusive():
            append_lines(self.path, b"".join(map(json_line, rows)))

    def replace(self, shard: str, rows: Sequence[JournalRow]) -> None:
        with self._exclusive():
            if not self.path.exists() and not rows:
                return
            with atomic_writer(self.path) as file:
                for row in self.rows():
                    if row["shard"] != shard:
                        file.write(json_line(row))
                for row in rows:
                    file.write(json_line(row))

    def rows(self) -> Iterator[JournalRow]:
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def _exclusive(self) -> AbstractContextManager[None]:
        if not self._locked:
            return nullcontext()
        return exclusive(self.path.with_name(f".{self.path.name}.lock"), f"the writing of {self.path}", wait=True)


class ErrorsInBucket(Errors):
    """The errors of a job in a folder of a bucket, in a file for each shard that has some.

    Args:
        folder: the folder.
        work: a folder of this machine, where files are written before they are put into the bucket.
    """

    def __init__(self, folder: RemotePath, work: Path) -> None:
        self._folder, self._work = folder, work

    def add(self, rows: Sequence[JournalRow]) -> None:
        if rows:
            self.replace(rows[0]["shard"], rows)

    def replace(self, shard: str, rows: Sequence[JournalRow]) -> None:
        file = self._folder / f"{shard}.jsonl"
        if not rows:
            file.remove()
            return
        local = self._work / "errors" / f"{shard}.jsonl"
        atomic_write_bytes(local, b"".join(map(json_line, rows)))
        file.put(local)
        local.unlink()

    def rows(self) -> Iterator[JournalRow]:
        for file in self._folder.files_below(None):
            for line in file.read_bytes().splitlines():
                yield json.loads(line)
