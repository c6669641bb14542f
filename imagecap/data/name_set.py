"""A set of names in 16 bytes each, for jobs of any number of pictures."""

import hashlib

import numpy as np

_DIGEST = np.dtype("S16")
_LEAST = 8192  # names that are held one by one before they are sorted among the others


class NameSet:
    """Names, of which digests of 128 bits are kept: a sorted array, and a small set of the latest ones."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, _DIGEST)
        self._latest: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._latest)

    def __contains__(self, name: str) -> bool:
        return self._has(_digest(name))

    def add(self, name: str) -> bool:
        """Add a name; returns whether it was in the set before."""
        digest = _digest(name)
        if self._has(digest):
            return True
        self._latest.add(digest)
        if len(self._latest) > max(_LEAST, len(self._sorted) // 16):
            self._sorted = np.sort(np.concatenate([self._sorted, np.array(list(self._latest), _DIGEST)]))
            self._latest = set()
        return False

    def _has(self, digest: bytes) -> bool:
        if digest in self._latest:
            return True
        place = int(np.searchsorted(self._sorted, np.array(digest, _DIGEST)))
        return place < len(self._sorted) and bytes(self._sorted[place]) == digest


def _digest(name: str) -> bytes:
    """The digest of a name, without the zeros at its end, which numpy drops too."""
    content = name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=_DIGEST.itemsize).digest().rstrip(b"\0")
