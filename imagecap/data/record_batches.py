"""Making the record batches of an index (see `imagecap.data.parts`) of samples, or of plain pictures in columns."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice, repeat, starmap
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from imagecap.data.fingerprints import caption_fingerprints, plain_fingerprints
from imagecap.data.locations import ByteRange, Location, ParquetCell, file_of, position_of
from imagecap.data.parts import (
    CAPTION_FIELDS,
    DECODED,
    PART_PICTURES,
    PICTURE_FIELDS,
    SCHEMA,
    UNDECIDED,
    WHOLE_FILE,
    Part,
)
from imagecap.data.records import SPLITS, PictureFacts, PlainPicture, Sample, Split
from imagecap.data.remote import is_url
from imagecap.languages import Language

_SPLIT_CODES: dict[Split | None, int] = {None: UNDECIDED, **{split: code for code, split in enumerate(SPLITS)}}
_UNKNOWN = PictureFacts("", cast(Any, None), cast(Any, None))


def record_batches(
    samples: Iterable[Sample],
    root: Path | None,
    splits: Iterable[Split | None],
    places: Iterable[str] | None = None,
    facts: Iterable[PictureFacts] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield record batches of at most `PART_PICTURES` samples.

    Args:
        samples: the samples; their own split does not count.
        root: the folder to which paths are relative; None: paths are absolute.
        splits: the split of each sample; None where it is undecided.
        places: where each sample was read, for messages; None: unknown.
        facts: what is known of each picture, of which the digest does not count; None: nothing.
    """
    rows = zip(samples, splits, places or repeat(""), facts or repeat(_UNKNOWN), strict=False)
    while chunk := list(islice(rows, PART_PICTURES)):
        yield _record_batch(chunk, os.fspath(root) if root is not None else None)


def plain_record_batches(
    pictures: Sequence[PlainPicture],
    facts: Sequence[PictureFacts],
    root: Path,
    split: Split | None,
    language: Language,
    prompt: str,
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches that `record_batches` would yield of the samples of plain pictures.

    Args:
        pictures: the pictures.
        facts: of each of them.
        root: the folder to which paths are relative.
        split: of all of them; None: undecided.
        language, prompt: of all captions.
    """
    for start in range(0, len(pictures), PART_PICTURES):
        chunk, known = pictures[start : start + PART_PICTURES], facts[start : start + PART_PICTURES]
        locations, texts = [each.location for each in chunk], [each.texts for each in chunk]
        count, captions = len(chunk), sum(map(len, texts))
        yield _assembled(
            {
                "image": [each.image for each in chunk],
                "file": _files(locations, os.fspath(root)),
                "offset": [each.offset for each in locations],
                "length": [each.length for each in locations],
                "column": [None] * count,
                "digest": [bytes.fromhex(each.digest) for each in known],
                "split": np.full(count, _SPLIT_CODES[split], np.int8),
                "place": [each.place for each in chunk],
                **{name: [getattr(each, name) for each in known] for name in DECODED},
            },
            {
                "text": list(chain.from_iterable(texts)),
                "language": _constant(language, captions),
                "prompt": _constant(prompt, captions),
                "extra": [None] * captions,
                "fingerprint": [
                    found
                    for each, facts_of in zip(texts, known, strict=True)
                    for found in plain_fingerprints(facts_of.digest, each, language, prompt)
                ],
            },
            map(len, texts),
        )


def parts_of(samples: Sequence[Sample]) -> list[Part]:
    """Put samples into parts in memory."""
    batches = record_batches(samples, None, (sample.split for sample in samples))
    return [Part(batch, Path("/")) for batch in batches]


def _record_batch(rows: Sequence[tuple[Sample, Split | None, str, Any]], root: str | None) -> pa.RecordBatch:
    locations = [sample.path for sample, *_ in rows]
    used = [caption for sample, *_ in rows for caption in sample.captions]
    return _assembled(
        {
            "image": [sample.image for sample, *_ in rows],
            "file": _files(locations, root),
            "offset": [position_of(location) for location in locations],
            "length": [location.length if isinstance(location, ByteRange) else WHOLE_FILE for location in locations],
            "column": [location.column if isinstance(location, ParquetCell) else None for location in locations],
            "digest": [bytes.fromhex(sample.digest) for sample, *_ in rows],
            "split": [_SPLIT_CODES[split] for _, split, _, _ in rows],
            "place": [place for _, _, place, _ in rows],
            **{name: [getattr(facts, name) for *_, facts in rows] for name in DECODED},
        },
        {
            "text": [caption.text for caption in used],
            "language": [caption.language for caption in used],
            "prompt": [caption.prompt for caption in used],
            "extra": [json.dumps(caption.extra, ensure_ascii=False) if caption.extra else None for caption in used],
            "fingerprint": [
                found for sample, *_ in rows for found in caption_fingerprints(sample.digest, sample.captions)
            ],
        },
        (len(sample.captions) for sample, *_ in rows),
    )


def _assembled(pictures: Mapping[str, Any], captions: Mapping[str, Any], counts: Iterable[int]) -> pa.RecordBatch:
    """The record batch of columns of pictures and of their captions, of which each picture has so many."""
    ends = pa.array(list(accumulate(counts, initial=0)), pa.int32())
    fields = list(starmap(pa.field, CAPTION_FIELDS.items()))
    structs = pa.StructArray.from_arrays([_array(captions[each.name], each.type) for each in fields], fields=fields)
    columns = [_array(pictures[name], kind) for name, kind in PICTURE_FIELDS.items()]
    return pa.RecordBatch.from_arrays([*columns, pa.ListArray.from_arrays(ends, structs)], schema=SCHEMA)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _constant(text: str, count: int) -> pa.Array:
    """A column of one text."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text]))


def _files(locations: Iterable[Location], root: str | None) -> list[bytes]:
    """The file of each location, relative to the root. Those of a shard share one object."""
    files: list[bytes] = []
    last: Path | None = None
    for location in locations:
        file = file_of(location)
        if file is not last:
            written = os.fsencode(_relative(os.fspath(file), root))
            last = file
        files.append(written)
    return files


def _relative(file: str, root: str | None) -> str:
    if root is None or is_url(file) != is_url(root):
        return file
    return file[len(root) + 1 :] if file.startswith(f"{root}{os.sep}") else os.path.relpath(file, root)
