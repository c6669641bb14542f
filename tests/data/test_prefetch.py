"""Reading ahead: results in order, a bounded number of them, errors in their turn, threads that end."""

import itertools
import threading
import time

import pytest

from imagecap.data.prefetch import prefetch


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_results_come_in_order_and_no_more_than_asked_for_are_made() -> None:
    started: list[int] = []

    def work(job: int) -> int:
        started.append(job)
        time.sleep(0.002 * (job % 3))
        return job * job

    results = prefetch(work, itertools.count(), threads=3, ahead=4)
    for taken in range(1, 40):
        assert next(results) == (taken - 1) ** 2
        assert len(started) <= taken + 4
    results.close()
    assert not running()


def test_all_results_of_few_jobs_are_given() -> None:
    assert list(prefetch(str, range(3), threads=2, ahead=10)) == ["0", "1", "2"]
    assert list(prefetch(str, range(9), threads=2, ahead=0)) == list("012345678")
    assert list(prefetch(str, [], threads=2, ahead=2)) == []


@pytest.mark.parametrize("place", ["work", "jobs"])
def test_an_exception_is_raised_in_its_turn_and_ends_the_threads(place: str) -> None:
    def jobs():
        yield from range(5)
        if place == "jobs":
            raise RuntimeError("the sixth")
        yield from range(5, 50)

    def work(job: int) -> int:
        if place == "work" and job == 5:
            raise RuntimeError("the sixth")
        return job

    found = []
    with pytest.raises(RuntimeError, match="the sixth"):
        found.extend(prefetch(work, jobs(), threads=2, ahead=0))
    assert found in ([], [0, 1, 2, 3, 4])
    assert not running()


def test_jobs_that_wait_are_cancelled_when_the_caller_stops() -> None:
    done: list[int] = []

    def work(job: int) -> int:
        time.sleep(0.05)
        done.append(job)
        return job

    results = prefetch(work, range(100), threads=2, ahead=50)
    assert next(results) == 0
    results.close()
    assert len(done) < 10
    assert not running()
