"""The places of pictures by their names, for any number of pictures."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from imagecap.data.locations import Location
from imagecap.data.records import Sample


class PicturePaths(Mapping[str, Location]):
    """The places of the pictures of samples by name, in 16 bytes a picture. Of samples with one name the last counts.

    Args:
        samples: the samples, which are looked at again when a name is looked up.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        digests = np.fromiter((_digest(sample.image) for sample in samples), np.uint64, len(samples))
        self._order = np.argsort(digests, kind="stable")
        self._digests = digests[self._order]

    def __getitem__(self, name: str) -> Location:
        return self._samples[self._place(name)].path

    def __iter__(self) -> Iterator[str]:
        return (sample.image for place, sample in enumerate(self._samples) if self._place(sample.image) == place)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _place(self, name: str) -> int:
        """The place of the last sample with a name; raises KeyError."""
        digest = np.uint64(_digest(name))
        first, end = (int(np.searchsorted(self._digests, digest, side)) for side in ("left", "right"))
        for place in self._order[first:end][::-1].tolist():
            if self._samples[place].image == name:
                return int(place)
        raise KeyError(name)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
