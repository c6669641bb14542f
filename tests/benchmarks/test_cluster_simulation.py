"""The arithmetic of the simulated cluster, where it is known."""

import pytest

from benchmarks.cluster import Machine, Model, exchange, simulate, slowest

MACHINE = Machine(rate=1e15, within=3e11, between=5e10, latency=0.0, decoded=1000, cache=1e12)
GIVEN = {"batch": 8, "captions": 5, "tokens": 14, "spread": 0.0}


def test_one_gpu_exchanges_nothing() -> None:
    found = simulate(Model(), MACHINE, 1, 1000, sharded=False, **GIVEN)
    assert (found.exchange, found.network, found.efficiency) == (0, 0, 1)
    assert found.step == pytest.approx(8 * Model().step(5, 14) / 1e15)
    assert found.first_epoch == pytest.approx(1000 / 8 * (found.step + 8 / 1000) / 3600), "decoding is the slower part"
    assert found.later_epoch == pytest.approx(1000 / 8 * found.step / 3600), "all is cached"


def test_a_ring_sends_all_values_twice() -> None:
    network, seconds = exchange(Model(trained=1e9), MACHINE, 16, sharded=False)
    assert network == 8e9 / 2
    assert seconds == pytest.approx(8e9 * 7 / 8 / 3e11 + 4e9 / 5e10)


def test_the_cache_grows_with_the_nodes() -> None:
    pictures = 10_000_000
    shares = [simulate(Model(), MACHINE, gpus, pictures, sharded=True, **GIVEN).cached for gpus in (8, 16, 64)]
    assert shares == [pytest.approx(1e12 / (pictures * 301056)), pytest.approx(2e12 / (pictures * 301056)), 1.0]


def test_all_wait_for_the_slowest() -> None:
    assert slowest(1, 0.0) == 1
    assert 1.0 < slowest(8, 0.05) < slowest(64, 0.05) < 1.25
