"""The output file of a shard: JSON Lines or Parquet, with a row for each picture."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from imagecap.data.remote import parquet_source
from imagecap.files import atomic_writer
from imagecap.generate.export import write_parquet
from imagecap.generate.journal import JournalRow


def write_rows(path: Path, rows: Iterable[JournalRow]) -> None:
    """Write rows to a file of this machine, which appears when it is complete and on the disk.

    Its ending chooses the format.
    """
    if path.suffix == ".parquet":
        write_parquet(path, rows)
        return
    with atomic_writer(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def read_rows(path: Path) -> Iterator[JournalRow]:
    """Yield the rows of a file that `write_rows` wrote; values that a row lacks are left out."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(parquet_source(path)) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}
        return
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def count_rows(path: Path) -> int:
    """The number of rows of a file that `write_rows` wrote."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(parquet_source(path)) as file:
            return int(file.metadata.num_rows)
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
