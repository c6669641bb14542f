"""The computed order of pictures is a permutation, looks random, and can be computed in pieces."""

import numpy as np
import pytest

from imagecap.train.permutation import permuted


@pytest.mark.parametrize("count", [1, 2, 3, 7, 63, 64, 65, 1000, 4096, 100_003])
def test_every_number_comes_once(count: int) -> None:
    assert sorted(permuted(0, count, count, [3, 5]).tolist()) == list(range(count))


def test_pieces_and_seeds() -> None:
    whole = permuted(0, 1000, 1000, [0, 1])
    assert np.concatenate([permuted(place, place + 250, 1000, [0, 1]) for place in range(0, 1000, 250)]).tolist() == (
        whole.tolist()
    )
    assert permuted(0, 1000, 1000, [0, 2]).tolist() != whole.tolist()
    assert permuted(0, 1000, 1000, [1, 1]).tolist() != whole.tolist()


@pytest.mark.parametrize("count", [5, 12])
def test_every_element_is_everywhere_as_often(count: int) -> None:
    trials = 4000
    seen = np.zeros((count, count))
    for seed in range(trials):
        seen[np.arange(count), permuted(0, count, count, [seed])] += 1
    expected = trials / count
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    degrees = (count - 1) ** 2
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)


def test_neighbours_are_not_neighbours_afterwards() -> None:
    order = permuted(0, 10_000, 10_000, [7])
    # two neighbours of a random permutation are 1 apart with a probability of 2 / count
    assert (np.abs(np.diff(order)) == 1).sum() < 15
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05


def test_billions_are_not_listed() -> None:
    assert len(set(permuted(0, 1000, 3_000_000_000, [0]).tolist())) == 1000
