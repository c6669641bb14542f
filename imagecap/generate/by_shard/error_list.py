"""The list of errors of a job by shard: pictures and shards that failed twice, in the file `errors.jsonl`.

A row has `shard`, the name of the shard, and `error`. The row of a picture has `image` too; one without it says that
the whole shard could not be captioned.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from imagecap.appending import append_lines, json_line
from imagecap.files import atomic_writer
from imagecap.generate.journal import JournalRow
from imagecap.locks import exclusive


class ErrorList:
    """The errors of a job in a file that several processes write.

    Args:
        path: the file. It is made with the first error.
        locked: whether the file system has locks.
    """

    def __init__(self, path: Path, *, locked: bool = True) -> None:
        self.path = path
        self._locked = locked

    def add(self, rows: Sequence[JournalRow]) -> None:
        """Append rows of a shard of which the list has none, and wait until they are on the disk."""
        if not rows:
            return
        with self._exclusive():
            append_lines(self.path, b"".join(map(json_line, rows)))

    def replace(self, shard: str, rows: Sequence[JournalRow]) -> None:
        """Put rows in the place of those of a shard."""
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
        """Yield the rows. An incomplete last one is left out."""
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def pictures(self) -> Counter[str]:
        """How many pictures of each shard have an error."""
        return Counter(row["shard"] for row in self.rows() if "image" in row)

    def shards(self) -> set[str]:
        """Names of the shards that could not be captioned."""
        return {row["shard"] for row in self.rows() if "image" not in row}

    def _exclusive(self) -> AbstractContextManager[None]:
        if not self._locked:
            return nullcontext()
        return exclusive(self.path.with_name(f".{self.path.name}.lock"), f"the writing of {self.path}", wait=True)
