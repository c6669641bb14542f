"""Parts of an index of pictures: Arrow record batches, in memory or mapped from files, and single samples out of them.

A part holds up to 65,536 pictures with their captions. Its columns are those of `SCHEMA`. A file with a part is an
Arrow IPC file with one record batch, so that dictionaries, the lists of distinct prompts, belong to the whole file.
"""

import errno
import json
import mmap
import os
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagecap.data.columns import TextColumn, digest_column, flag_column, hash_column, number_column
from imagecap.data.locations import ByteRange, Location, ParquetCell
from imagecap.data.perceptual import Hashes
from imagecap.data.records import Caption, PictureFacts, Sample, Split
from imagecap.data.remote import RemotePath, data_place, is_url
from imagecap.errors import ImageCapError, one_line
from imagecap.files import atomic_writer

PART_PICTURES = 1 << 16

UNDECIDED = -1  # in the column `split`
WHOLE_FILE = -1  # in the column `length`

CODES = pa.dictionary(pa.int32(), pa.string())

CAPTION_FIELDS = {
    "text": pa.string(),
    "language": CODES,
    "prompt": CODES,
    "extra": pa.string(),  # JSON of the further columns; null if there are none
    "fingerprint": pa.binary(32),  # see `caption_fingerprints`
}

PICTURE_FIELDS = {
    "image": pa.string(),
    "file": pa.binary(),  # relative to the folder of the data, or absolute, or a URL; names need not be UTF-8
    "offset": pa.int64(),  # of the first byte, or row of a Parquet file
    "length": pa.int64(),  # in bytes; WHOLE_FILE for a file of its own and for a Parquet cell
    "column": CODES,  # of a Parquet file; null elsewhere
    "digest": pa.binary(32),
    "width": pa.int32(),  # in pixels, as the picture is seen; null where nobody has decoded it
    "height": pa.int32(),
    "hash": pa.binary(),  # `difference_hash`; null if nobody asked for it
    "split": pa.int8(),  # index in SPLITS, or UNDECIDED
    "place": pa.string(),  # where the picture's first row was read, for messages
}

SCHEMA = pa.schema([*PICTURE_FIELDS.items(), ("captions", pa.list_(pa.struct(list(CAPTION_FIELDS.items()))))])


DECODED = ("width", "height", "hash")  # columns with the fields of `PictureFacts` of the same names


def write_part(batch: pa.RecordBatch, file: Path) -> None:
    """Write a part, replacing the file atomically."""
    with atomic_writer(file) as opened:
        write_batch(batch, opened)


def write_batch(batch: pa.RecordBatch, file: BinaryIO) -> None:
    """Write a part into an opened file."""
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def map_part(file: Path) -> pa.RecordBatch:
    """Map the record batch of a file into memory; nothing is read until it is looked at.

    Raises:
        FileNotFoundError: there is no such file.
        ImageCapError: the file is damaged.
    """
    if not file.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", os.fspath(file))
    try:
        with file.open("rb") as content:
            mapping = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        opened = pa.ipc.open_file(pa.py_buffer(mapping))
        if opened.num_record_batches == 1 and opened.schema.equals(SCHEMA):
            batch = opened.get_batch(0)
            _mappings[_address(batch)] = mapping
            return batch
    except (pa.ArrowException, ValueError) as error:  # ValueError: an empty file
        raise ImageCapError(f"{file} is damaged ({one_line(error)}); make it anew") from None
    raise ImageCapError(f"{file} was written by another version of ImageCap, or is no part of an index; make it anew")


# The mapped file of each batch, by the address of a column in it; gone when nothing refers to the file any more.
_mappings: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()


def _address(batch: pa.RecordBatch) -> int:
    data = batch.column("digest").buffers()[1]
    return data.address if data is not None else 0


class Part:
    """The samples of one record batch.

    Args:
        batch: with the columns of `SCHEMA`.
        root: the folder to which its paths are relative.

    Attributes:
        digests: `[pictures]`, 32 bytes each.
        splits: indices into `SPLITS`, or `UNDECIDED`. `[pictures]`
        first_captions: number of the first caption of each picture, and of all captions. `[pictures + 1]`
        text_ends: end of each caption's text among the bytes of all texts, after a 0. `[captions + 1]`
        languages, prompts: distinct values.
        language_codes, prompt_codes: of each caption, indices into these. `[captions]`
        fingerprints: `caption_fingerprints` of each caption, 32 bytes each. `[captions]`
    """

    def __init__(self, batch: pa.RecordBatch, root: Path) -> None:
        self.batch, self.root = batch, root
        self._mapping = _mappings.get(_address(batch))
        captions = batch.column("captions")
        values = captions.values
        self.digests = digest_column(batch.column("digest"))
        self.splits: NDArray[np.int8] = number_column(batch.column("split"))
        self.first_captions: NDArray[np.int32] = number_column(captions.offsets)
        language, prompt = values.field("language"), values.field("prompt")
        self.languages: list[str] = language.dictionary.to_pylist()
        self.language_codes: NDArray[np.int8] = number_column(language.indices)
        self.prompts: list[str] = prompt.dictionary.to_pylist()
        self.prompt_codes: NDArray[np.int32] = number_column(prompt.indices)
        self.fingerprints = digest_column(values.field("fingerprint"))
        self._images, self._files, self._places = (
            TextColumn(batch.column(name)) for name in ("image", "file", "place")
        )
        self._texts, self._extras = TextColumn(values.field("text")), TextColumn(values.field("extra"))
        self.text_ends = self._texts.offsets
        self._first_captions = self.first_captions.data
        self._language_codes, self._prompt_codes = self.language_codes.data, self.prompt_codes.data
        self._offsets: NDArray[np.int64] = number_column(batch.column("offset"))
        self._lengths: NDArray[np.int64] = number_column(batch.column("length"))
        column = batch.column("column")
        self._column_codes = number_column(column.indices, null=-1)
        self._columns: list[str] = column.dictionary.to_pylist()

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def forget_pages(self) -> None:
        """Take the pages of a mapped file out of this process's memory, after a look at a whole column.

        They stay in the system's file cache, and come back when they are looked at.
        """
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def sample(self, row: int, split: Split, dropped: Collection[int] = ()) -> Sample:
        """The sample of a row.

        Args:
            row: in this part.
            split: of the sample.
            dropped: numbers, within the picture, of the captions that are left out.
        """
        captions = tuple(map(self._caption, self._numbers(row, dropped)))
        return Sample(self._images[row], self.location(row), self.digest(row), split, captions)

    def prompts_and_texts(self, row: int, dropped: Collection[int] = ()) -> list[tuple[str, str]]:
        """Prompt and text of each caption of a row; see `sample`."""
        return [(self.prompts[self._prompt_codes[each]], self._texts[each]) for each in self._numbers(row, dropped)]

    def digest(self, row: int) -> str:
        """The `picture_digest` of a row."""
        return bytes(self.digests[row]).hex()

    def image(self, row: int) -> str:
        """The name of the picture of a row."""
        return self._images[row]

    def location(self, row: int) -> Location:
        """Where the picture of a row is."""
        file, length, offset = _path(self.root, self._files[row]), int(self._lengths[row]), int(self._offsets[row])
        if length >= 0:
            return ByteRange(file, offset, length)
        code = int(self._column_codes[row])
        return file if code < 0 else ParquetCell(file, offset, self._columns[code])

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Width and height of each picture, zeros where they are not known. `[pictures, 2]`"""
        return np.stack([number_column(self.batch.column(name)) for name in ("width", "height")], axis=1)

    @property
    def hashes(self) -> Hashes | None:
        """The `difference_hash` of each picture; None unless all are known."""
        return hash_column(self.batch.column("hash"))

    def facts(self, row: int) -> PictureFacts:
        """What is known of the picture of a row."""
        return PictureFacts(self.digest(row), *(self.batch.column(name)[row].as_py() for name in DECODED))

    def chosen(self, rows: NDArray[np.int64], splits: NDArray[np.int8]) -> pa.RecordBatch:
        """A record batch of some rows, in these splits and without hashes. `[rows]`"""
        batch = self.batch if len(rows) == len(self) else self.batch.take(pa.array(rows))
        hashes = pa.nulls(len(rows), pa.binary())
        batch = batch.set_column(batch.schema.get_field_index("hash"), "hash", hashes)
        return batch.set_column(batch.schema.get_field_index("split"), "split", pa.array(splits))

    def texts_with(self, pattern: str) -> NDArray[np.bool_]:
        """Which captions match a regular expression somewhere, `[captions]`."""
        found = pc.match_substring_regex(self.batch.column("captions").values.field("text"), pattern)
        return flag_column(found)

    def place(self, row: int) -> str:
        """Where the row was read, for messages."""
        return self._places[row]

    def _numbers(self, row: int, dropped: Collection[int]) -> Sequence[int]:
        """Numbers of the captions of a row, but those that are left out."""
        numbers = range(self._first_captions[row], self._first_captions[row + 1])
        return [each for each in numbers if each - numbers.start not in dropped] if dropped else numbers

    def _caption(self, number: int) -> Caption:
        extra = self._extras[number]
        return Caption(
            self._texts[number],
            cast(Any, self.languages[self._language_codes[number]]),
            self.prompts[self._prompt_codes[number]],
            json.loads(extra) if extra else {},
        )


@lru_cache(1024)
def _path(root: Path, file: str) -> Path:
    if is_url(file):
        return data_place(file)
    if isinstance(root, RemotePath) and not file.startswith("/"):
        return root / file
    return Path(os.path.normpath(Path(root, file)))
