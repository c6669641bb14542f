"""Columns of Arrow record batches as arrays and texts, without copies."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.data.perceptual import Hashes

_AT_ONCE = 4096


class TextColumn:
    """Strings of an Arrow column, decoded one at a time."""

    def __init__(self, column: Any) -> None:
        _, _, data = column.buffers()
        self.offsets = _offsets(column)
        self._data = memoryview(data) if data is not None else memoryview(b"")
        self._ends = self.offsets.data  # indexing it is several times as fast as indexing an array

    def __getitem__(self, index: int) -> str:
        return str(self._data[self._ends[index] : self._ends[index + 1]], "utf-8", "surrogateescape")


def digest_column(column: Any) -> NDArray[np.void]:
    """The values of a column of 32 bytes each. `[rows]`"""
    data = column.buffers()[1]
    values = np.frombuffer(data, "V32") if data is not None else np.zeros(0, "V32")
    return values[column.offset : column.offset + len(column)]


def hex_digests(digests: NDArray[Any]) -> Iterator[str]:
    """Yield digests of 32 bytes each as text."""
    for first in range(0, len(digests), _AT_ONCE):
        text = digests[first : first + _AT_ONCE].tobytes().hex()
        yield from [text[start : start + 64] for start in range(0, len(text), 64)]


def number_column(column: Any, null: int = 0) -> NDArray[Any]:
    """The values of a column of numbers, with `null` where there is none. `[rows]`"""
    # `to_numpy` imports pandas, which takes most of a second; `to_pandas_dtype` needs it
    if column.null_count:
        column = column.fill_null(null)
    data, kind = column.buffers()[1], np.dtype(str(column.type))
    values: NDArray[Any] = np.frombuffer(data, kind) if data is not None else np.zeros(0, kind)
    return values[column.offset : column.offset + len(column)]


def flag_column(column: Any) -> NDArray[np.bool_]:
    """The values of a column of truth values. `[rows]`"""
    return number_column(column.cast("int8")).astype(bool)


def hash_column(column: Any) -> Hashes | None:
    """The values of a column of hashes; None if one of them is null. `[rows, 4]`"""
    if column.null_count:
        return None
    _, _, data = column.buffers()
    ends = _offsets(column)
    values = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return values[ends[0] : ends[len(column)]].view(np.uint64).reshape(-1, 4)


def _offsets(column: Any) -> NDArray[np.int32]:
    """Where the values of a column of texts or bytes begin, and where the last one ends. `[rows + 1]`"""
    _, offsets, _ = column.buffers()
    return np.frombuffer(offsets, np.int32)[column.offset :] if offsets else np.zeros(1, np.int32)
