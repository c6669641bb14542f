"""Digests of pictures as fixed-width bytes: 32 bytes each in one array, instead of a string object each."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 32  # SHA-256
DIGEST = np.dtype(f"S{DIGEST_BYTES}")
Digests = NDArray[Any]  # of dtype DIGEST, `[pictures]`


def digest_array(digests: Iterable[str], count: int) -> Digests:
    """The digests of `count` pictures, given as hexadecimal text, as an array."""
    return np.fromiter((bytes.fromhex(digest) for digest in digests), DIGEST, count)


def repeated_digests(digests: Digests) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of each digest that an array holds several times, in order. `[copies]`"""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    equal = np.concatenate([np.zeros(1, bool), ordered[1:] == ordered[:-1], np.zeros(1, bool)])
    starts, ends = (np.flatnonzero(change) for change in (equal[1:] & ~equal[:-1], equal[:-1] & ~equal[1:]))
    return (order[start : end + 1] for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


class DigestTable:
    """Finds the position of a digest in an array, by binary search in the sorted digests.

    It takes 40 bytes per digest.

    Args:
        digests: `[pictures]`. Of equal digests the first one is found.
    """

    def __init__(self, digests: Digests) -> None:
        self._order = np.argsort(digests, kind="stable")
        self._sorted = digests[self._order]

    def __len__(self) -> int:
        return len(self._sorted)

    def find(self, wanted: Digests) -> NDArray[np.int64]:
        """The positions of digests, `[wanted]`; -1 for those that the array does not hold."""
        if not len(self):
            return np.full(len(wanted), -1, np.int64)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self) - 1)
        return np.where(self._sorted[places] == wanted, self._order[places], -1)
