"""Columns of Arrow record batches as arrays and texts, without copies."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.data.perceptual import Hashes


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


def number_column(column: Any) -> NDArray[Any]:
    """The values of a column of numbers, 0 for null. `[rows]`"""
    values: NDArray[Any] = column.fill_null(0).to_numpy()
    return values


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
