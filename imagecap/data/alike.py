"""Pictures that look the same: pairs of difference hashes that differ in few bits, found without comparing all pairs.

Two hashes that differ in at most `ALIKE_BITS` bits agree in one of `ALIKE_BITS + 1` bands, whatever bits differ. So
only hashes that agree in a band are compared, and no pair is missed (multi-index hashing: Norouzi, Punjani and
Fleet 2012).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imagecap.data.perceptual import Hashes

ALIKE_BITS = 12
"""Hashes that differ in at most this many of 256 bits are of near duplicates; unrelated photographs differ in 128."""

_BANDS = ALIKE_BITS + 1
_ONES_BITS = 9  # for the number of ones in a hash, at most 256
_ROWS = 1 << 16  # hashes and pairs that are looked at at once, which bounds the memory

Indices = NDArray[np.int64]


def near_pairs(hashes: Hashes) -> Iterator[tuple[Indices, Indices, NDArray[np.int32]]]:
    """Yield all pairs of hashes that differ in at most `ALIKE_BITS` bits, some of them several times.

    The time grows with the number of hashes that agree in a band. Equal ones do, so leave them out beforehand.

    Yields:
        The earlier and the later hash of each pair, and in how many bits they differ. `[pairs]`
    """
    for keys in _band_keys(hashes):
        order = np.argsort(keys)
        keys = keys[order]
        places, step = np.arange(len(order)), 0
        while len(places):
            step += 1  # each hash is compared with the one that is `step` places behind it
            places = places[: np.searchsorted(places, len(order) - step)]
            places = places[keys[places + step] - keys[places] <= ALIKE_BITS]
            for start in range(0, len(places), _ROWS):
                chunk = places[start : start + _ROWS]
                pairs = np.sort([order[chunk], order[chunk + step]], axis=0)
                distance = np.bitwise_count(hashes[pairs[0]] ^ hashes[pairs[1]]).sum(1, dtype=np.int32)
                near = distance <= ALIKE_BITS
                yield pairs[0, near], pairs[1, near], distance[near]


def first_of_alike(hashes: Hashes) -> NDArray[np.bool_]:
    """Choose hashes in their order, each unless it resembles one that was chosen before. `[pictures]`

    No two of the chosen ones differ in `ALIKE_BITS` bits or fewer, and each of the others does from one of them.
    """
    chosen = np.zeros(len(hashes), bool)
    undecided = np.sort(_distinct(hashes)[0])
    while len(undecided):
        # chosen are those that resemble no earlier one; what resembles them is decided too
        paired, later = np.zeros((2, len(undecided)), bool)
        for left, right, _ in near_pairs(hashes[undecided]):
            paired[left] = paired[right] = later[right] = True
        chosen[undecided[~later]] = True
        undecided, later = undecided[paired], later[paired]
        left_out = np.zeros(len(undecided), bool)
        for left, right, _ in near_pairs(hashes[undecided]):
            left_out[right[~later[left]]] = True
        undecided = undecided[later & ~left_out]
    return chosen


def most_alike(asked: Hashes, known: Hashes) -> Indices:
    """Find for each hash the nearest of the known ones, the first of equally near ones. `[asked]`

    Returns:
        Indices into `known`; -1 where none differs in at most `ALIKE_BITS` bits.
    """
    (first_asked, inverse), (first_known, _) = _distinct(asked), _distinct(known)
    none = np.iinfo(np.int64).max
    best = np.full(len(first_asked), none)
    for left, right, distance in near_pairs(np.concatenate([asked[first_asked], known[first_known]])):
        across = (left < len(best)) & (right >= len(best))
        places = first_known[right[across] - len(best)]
        np.minimum.at(best, left[across], distance[across] * len(known) + places)
    return np.where(best == none, -1, best % max(1, len(known)))[inverse]


def _band_keys(hashes: Hashes) -> Iterator[NDArray[np.uint32]]:
    """Yield for each band a number of each hash: the bits of the band, followed by how many ones the whole hash has.

    Hashes of one band whose numbers of ones differ by more than `ALIKE_BITS` differ in more bits. Neighbouring bits are
    in different bands, so that a flat part of many pictures does not make them agree.
    """
    keys = np.empty((_BANDS, len(hashes)), np.uint32)
    for start in range(0, len(hashes), _ROWS):
        chunk = np.ascontiguousarray(hashes[start : start + _ROWS])
        ones = np.bitwise_count(chunk).sum(1, dtype=np.uint32)
        bits = np.unpackbits(chunk.view(np.uint8), axis=1)
        for band in range(_BANDS):
            value = np.zeros(len(chunk), np.uint32)
            for byte in np.packbits(bits[:, band::_BANDS], axis=1).T:
                value = value << 8 | byte
            # the last byte is filled up with zeros, which do not fit beside the number of ones
            value >>= -len(range(band, bits.shape[1], _BANDS)) % 8
            keys[band, start : start + _ROWS] = value << _ONES_BITS | ones
    yield from keys


def _distinct(hashes: Hashes) -> tuple[Indices, Indices]:
    """The first place of each distinct hash, `[distinct]`, and the number of each hash among these, `[pictures]`."""
    order = np.lexsort(hashes.T)
    new = np.ones(len(order), bool)
    new[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(1)
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    return order[new], number
