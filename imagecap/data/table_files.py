"""Reading tables, CSV, TSV, JSON Lines and Parquet, row by row."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagecap.data.remote import parquet_source
from imagecap.data.text_files import first_line, text_lines
from imagecap.errors import ImageCapError, one_line
from imagecap.files import object_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")

_FIELD_BYTES = 1 << 24  # the longest field of a CSV file that is read


def read_table(file: Path) -> Iterator[Any]:
    """Yield the rows of a table, judged by its ending, as dicts; JSON Lines may hold other values.

    A CSV file may have another delimiter, and a row with more fields than the heading has them under the key None.

    Raises:
        ImageCapError: the file cannot be read, or is no such table; the message names the line.
    """
    if file.suffix.lower() == ".parquet":
        return _read_parquet(file)
    return _read_json_lines(file) if file.suffix.lower() == ".jsonl" else _read_csv(file)


def _read_json_lines(file: Path) -> Iterator[Any]:
    for number, line in enumerate(text_lines(file), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line, parse_constant=lambda _: None, object_pairs_hook=object_of)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise ImageCapError(f"{file} is not JSON Lines: line {number}: {reason}") from None


def _read_csv(file: Path) -> Iterator[dict[Any, Any]]:
    heading = first_line(file)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t|", key=heading.count)
    csv.field_size_limit(_FIELD_BYTES)
    # the csv module joins lines of a quoted field itself, and needs their ends for that
    reader = csv.DictReader((f"{line}\n" for line in text_lines(file)), delimiter=delimiter, strict=True)
    try:
        if not reader.fieldnames:
            raise ImageCapError(f"{file} is empty; it must begin with the names of its columns")
        reader.fieldnames = [name.strip() for name in reader.fieldnames]
        yield from reader
    except csv.Error as error:
        raise ImageCapError(f"{file} is not a table: after line {reader.line_num}: {error}") from None


def _read_parquet(file: Path) -> Iterator[dict[str, Any]]:
    with open_parquet(file) as opened:
        for group in range(opened.metadata.num_row_groups):
            yield from parquet_rows(file, opened, group)


@contextmanager
def open_parquet(file: Path) -> "Iterator[pq.ParquetFile]":
    """Open a Parquet file.

    Raises:
        ImageCapError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(parquet_source(file)) as opened:
            yield opened
    except (OSError, pa.ArrowException) as error:
        raise ImageCapError(f"{file} cannot be read as Parquet: {one_line(error)}") from None


def parquet_rows(
    file: Path, opened: "pq.ParquetFile", group: int, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a row group. Values that JSON does not have, such as times and decimals, are text.

    Args:
        file: for messages.
        opened: from `open_parquet`.
        group: number of the row group.
        columns: those that are read, or fields of structs, as `image.path`; None: all.

    Raises:
        ImageCapError: the row group is damaged.
    """
    import pyarrow as pa

    try:
        for batch in opened.iter_batches(batch_size=4096, row_groups=[group], columns=columns):
            for row in batch.to_pylist():
                yield {name: _json_value(value) for name, value in row.items()}
    except (OSError, pa.ArrowException) as error:
        raise ImageCapError(f"{file} cannot be read as Parquet: {one_line(error)}") from None


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return [_json_value(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _json_value(each) for name, each in value.items()}
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
