"""The finished rows of a bulk job as Parquet, or as a captions.json, written in pieces: memory does not grow."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from imagecap.files import atomic_writer
from imagecap.generate.journal import JournalRow
from imagecap.languages import ENGLISH, Language, language_of

_ROW_GROUP = 10_000  # rows of a Parquet file that are in memory at once


def write_parquet(path: Path, rows: Iterable[JournalRow]) -> None:
    """Write a row per picture: `image`, `caption`, `score`, `tokens`, `others`, `error`; absent values are null."""
    import pyarrow
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema(
        [
            ("image", text),
            ("caption", text),
            ("score", pyarrow.float64()),
            ("tokens", number),
            ("others", pyarrow.list_(text)),
            ("error", text),
        ]
    )
    rows = iter(rows)
    with atomic_writer(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def write_captions(path: Path, rows: Iterable[JournalRow], language: Language) -> None:
    """Write a captions.json with a row for each caption; pictures with an error are left out.

    Args:
        path: the file.
        rows: of the journal.
        language: of captions whose script does not tell, such as empty ones.
    """
    with atomic_writer(path) as file:
        separator = "[\n"
        for row in _caption_rows(rows, language):
            file.write((separator + "  " + json.dumps(row, ensure_ascii=False)).encode())
            separator = ",\n"
        file.write(b"[]\n" if separator == "[\n" else b"\n]\n")


def _caption_rows(rows: Iterable[JournalRow], language: Language) -> Iterator[JournalRow]:
    for row in rows:
        for text in (row["caption"], *row.get("others", ())) if "error" not in row else ():
            script = language_of(text)
            yield {"image": row["image"], "caption": text, "language": script if script != ENGLISH.code else language}
