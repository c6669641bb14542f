"""Hashes that are alike are found as a comparison of all pairs finds them."""

import time

import numpy as np
import pytest
from PIL import Image

from imagecap.data import alike
from imagecap.data.alike import ALIKE_BITS, find_alike, first_of_alike, near_pairs
from imagecap.data.perceptual import SIDE, Hashes, difference_hash


def clusters(seed: int, count: int, centres: int = 12) -> Hashes:
    """Hashes around few centres, some flat and some equal, at distances on both sides of the limit."""
    random = np.random.default_rng(seed)
    middle = random.integers(0, 2, (centres, 256)) * (random.random((centres, 1)) < 0.7)
    flipped = random.random((count, 256)) < random.choice([0, 0.01, 0.02, 0.03, 0.05], (count, 1))
    return np.packbits(middle[random.integers(0, centres, count)] ^ flipped, axis=1).view(np.uint64)


def distances(asked: Hashes, known: Hashes) -> np.ndarray:
    return np.bitwise_count(asked[:, None] ^ known[None]).sum(-1, dtype=int)


def flipped(hash: Hashes, bits: list[int]) -> Hashes:
    values = np.unpackbits(hash.view(np.uint8))
    values[bits] ^= 1
    return np.packbits(values).view(np.uint64)


@pytest.mark.parametrize("seed", range(5))
def test_all_pairs_are_found(seed: int) -> None:
    hashes = clusters(seed, 300)
    found = {
        (left, right)
        for lefts, rights in near_pairs(hashes)
        for left, right in zip(lefts.tolist(), rights.tolist(), strict=True)
    }
    between = distances(hashes, hashes)
    expected = {
        (left, right)
        for left, right in zip(*(rows.tolist() for rows in np.nonzero(between <= ALIKE_BITS)), strict=True)
        if left < right
    }
    assert found == expected
    assert len(found) > 1000


@pytest.mark.parametrize("changed", [1, ALIKE_BITS, ALIKE_BITS + 1])
def test_the_limit_holds_wherever_the_bits_are(changed: int) -> None:
    random = np.random.default_rng(0)
    for start in range(0, 256, 7):
        hash = random.integers(0, 2**63, 4).astype(np.uint64)
        for bits in (
            [(start + place) % 256 for place in range(changed)],
            [(start + 13 * place) % 256 for place in range(changed)],
            random.choice(256, changed, replace=False).tolist(),
        ):
            pairs = [len(left) for left, _ in near_pairs(np.stack([hash, flipped(hash, bits)]))]
            assert (sum(pairs) > 0) == (changed <= ALIKE_BITS)


@pytest.mark.parametrize(("few", "candidates"), [(512, 64), (16, 64), (16, 10**6), (1, 0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_first_of_alike_ones_are_chosen_in_order(
    seed: int, few: int, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the search is divided."""
    monkeypatch.setattr(alike, "_FEW", few)
    monkeypatch.setattr(alike, "_CANDIDATES", candidates)
    hashes = clusters(seed, 300)
    chosen: list[int] = []
    for row in range(len(hashes)):
        if not chosen or distances(hashes[[row]], hashes[chosen]).min() > ALIKE_BITS:
            chosen.append(row)
    assert np.flatnonzero(first_of_alike(hashes)).tolist() == chosen
    assert 12 < len(chosen) < 250


def test_what_resembles_only_a_picture_that_was_left_out_is_chosen() -> None:
    first = np.zeros(4, np.uint64)
    second, third = flipped(first, list(range(12))), flipped(first, list(range(24)))
    assert first_of_alike(np.stack([first, second, third, first, second])).tolist() == [True, False, True, False, False]
    assert first_of_alike(np.stack([second, first, third])).tolist() == [True, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_what_resembles_a_known_hash_is_found(seed: int) -> None:
    hashes = clusters(seed, 400)
    asked, known = hashes[:150], hashes[150:]
    between = distances(asked, known)
    found = find_alike(asked, known)
    assert (found >= 0).tolist() == (between.min(1) <= ALIKE_BITS).tolist()
    assert (between[np.arange(150), found][found >= 0] <= ALIKE_BITS).all()
    assert 0 < (found >= 0).sum() < 150


def test_nothing_resembles_nothing() -> None:
    none, some = np.zeros((0, 4), np.uint64), clusters(0, 3)
    assert first_of_alike(none).tolist() == []
    assert find_alike(none, some).tolist() == []
    assert find_alike(some, none).tolist() == [-1, -1, -1]


def test_the_time_does_not_grow_with_the_square() -> None:
    """All 1.25 billion pairs of these would take a minute and more."""
    hashes = np.random.default_rng(0).integers(0, 2**63, (50_000, 4)).astype(np.uint64)
    hashes[40_000:] = hashes[:10_000] ^ np.uint64(0b111)
    started = time.process_time()
    assert np.flatnonzero(~first_of_alike(hashes)).tolist() == list(range(40_000, 50_000))
    assert time.process_time() - started < 10


def test_many_pictures_that_are_nearly_blank_take_no_time() -> None:
    """They agree in most bands, and each resembles many others."""
    bits = np.random.default_rng(0).random((20_000, 256)) < 5 / 256
    hashes = np.packbits(bits, axis=1).view(np.uint64)
    started = time.process_time()
    chosen = first_of_alike(hashes)
    assert (find_alike(hashes[~chosen], hashes[chosen]) >= 0).all()
    assert time.process_time() - started < 20


def test_noise_of_flat_areas_is_no_pattern() -> None:
    pixels = np.full((SIDE, SIDE + 1), 100, np.uint8)
    pixels[:, ::2] += 2
    assert not difference_hash(Image.fromarray(pixels)).any()
    pixels[:, ::2] += 1
    assert np.bitwise_count(difference_hash(Image.fromarray(pixels))).sum() == SIDE * SIDE / 2


@pytest.mark.parametrize("size", [(97, 73), (100, 76), (66, 50)])
def test_pictures_with_edges_are_alike_at_any_size(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        blocks = random.integers(0, 256, (15, 20), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((200, 150), Image.Resampling.NEAREST)
        smaller = picture.resize(size, Image.Resampling.LANCZOS)
        assert distances(difference_hash(picture)[None], difference_hash(smaller)[None]).max() <= ALIKE_BITS
