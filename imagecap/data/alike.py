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
_ONES = (1 << _ONES_BITS) - 1
_FEW = 512  # so many hashes are compared with each other
_CANDIDATES = 64  # pairs for each hash that may be compared one by one
_ROWS = 1 << 16  # hashes and pairs that are looked at at once, which bounds the memory

Indices = NDArray[np.int64]


def near_pairs(hashes: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Yield all pairs of hashes that differ in at most `ALIKE_BITS` bits, some of them several times.

    The time grows with the number of hashes that agree in a band. Equal ones do, so leave them out beforehand.

    Yields:
        The earlier and the later hash of each pair. `[pairs]`
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
                near = _distance(hashes[pairs[0]], hashes[pairs[1]]) <= ALIKE_BITS
                yield pairs[0, near], pairs[1, near]


def first_of_alike(hashes: Hashes) -> NDArray[np.bool_]:
    """Choose hashes in their order, each unless it resembles one that was chosen before. `[pictures]`

    No two of the chosen ones differ in `ALIKE_BITS` bits or fewer, and each of the others does from one of them.
    """
    chosen = np.zeros(len(hashes), bool)
    chosen[_first(hashes, np.sort(_distinct(hashes)[0]))] = True
    return chosen


def find_alike(asked: Hashes, known: Hashes) -> Indices:
    """Find for each hash a known one that differs in at most `ALIKE_BITS` bits.

    Returns:
        Indices into `known`; -1 where there is none. `[asked]`
    """
    (first_asked, inverse), (first_known, _) = _distinct(asked), _distinct(known)
    asked, known = asked[first_asked], known[first_known]
    found = np.full(len(asked), -1)
    for asked_keys, known_keys in zip(_band_keys(asked), _band_keys(known), strict=True):
        order = np.argsort(known_keys, kind="stable")
        open_ = np.flatnonzero(found < 0)
        low, high = _alike_keys(asked_keys[open_])
        places = np.searchsorted(known_keys, low, sorter=order)
        ends = np.searchsorted(known_keys, high, side="right", sorter=order)
        while len(open_):  # each hash is compared with the next one in its range, until it resembles one
            left = (places < ends) & (found[open_] < 0)
            open_, places, ends = open_[left], places[left], ends[left]
            for start in range(0, len(open_), _ROWS):
                rows, others = open_[start : start + _ROWS], order[places[start : start + _ROWS]]
                near = _distance(asked[rows], known[others]) <= ALIKE_BITS
                found[rows[near]] = others[near]
            places += 1
    return np.where(found < 0, -1, first_known[found] if len(known) else -1)[inverse]


def _first(hashes: Hashes, rows: Indices) -> Indices:
    """The rows that `first_of_alike` chooses of these, which are in order."""
    if len(rows) > _FEW and _candidates(hashes[rows]) <= _CANDIDATES * len(rows):
        return _first_of_pairs(hashes, rows)
    if len(rows) > _FEW:  # many agree in a band: most of the second half resemble some of the first
        first = _first(hashes, rows[: len(rows) // 2])
        rest = rows[len(rows) // 2 :]
        return np.concatenate([first, _first(hashes, rest[find_alike(hashes[rest], hashes[first]) < 0])])
    near = _distance(hashes[rows, None], hashes[rows]) <= ALIKE_BITS
    left_out = np.zeros(len(rows), bool)
    for row in range(len(rows)):
        if not left_out[row]:
            left_out[row + 1 :] |= near[row, row + 1 :]
    return rows[~left_out]


def _first_of_pairs(hashes: Hashes, rows: Indices) -> Indices:
    """The same, where few hashes agree in a band."""
    chosen = [rows[:0]]
    while len(rows):
        # chosen are those that resemble no earlier one; what resembles them is decided too
        paired, later = np.zeros((2, len(rows)), bool)
        for left, right in near_pairs(hashes[rows]):
            paired[left] = paired[right] = later[right] = True
        chosen.append(rows[~later])
        rows, later = rows[paired], later[paired]
        left_out = np.zeros(len(rows), bool)
        for left, right in near_pairs(hashes[rows]):
            left_out[right[~later[left]]] = True
        rows = rows[later & ~left_out]
    return np.concatenate(chosen)


def _candidates(hashes: Hashes) -> int:
    """How many pairs `near_pairs` compares."""
    count = 0
    for keys in _band_keys(hashes):
        keys.sort()
        count += int((np.searchsorted(keys, _alike_keys(keys)[1], side="right") - np.arange(1, len(keys) + 1)).sum())
    return count


def _distance(left: Hashes, right: Hashes) -> NDArray[np.int32]:
    """In how many bits hashes differ."""
    return np.bitwise_count(left ^ right).sum(-1, dtype=np.int32)


def _alike_keys(keys: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lowest and the highest key of hashes that may be alike: of the same band, with about as many ones."""
    numbers, ones = keys.astype(np.int64), (keys & _ONES).astype(np.int64)
    return numbers - np.minimum(ones, ALIKE_BITS), numbers + np.minimum(_ONES - ones, ALIKE_BITS)


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
