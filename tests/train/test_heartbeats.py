"""Processes of a training notice that another one is silent; two of them in this process, with a store between them."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from torch import distributed

from imagecap.train import heartbeats
from imagecap.train.heartbeats import Heartbeats, LostProcessError
from tests.train.helpers import free_port


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Heartbeats]]:
    monkeypatch.setattr(heartbeats, "INTERVAL", 0.1)
    monkeypatch.setattr(heartbeats, "SHORT_SILENCE", 1.5)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    store = distributed.TCPStore("127.0.0.1", free_port(), is_master=True, timeout=timedelta(seconds=5))
    both = [Heartbeats(store, rank, 2, silence=60) for rank in range(2)]
    for each in both:
        each.start()
    yield both
    for each in both:
        each.stop()


def test_a_silent_process_is_found(pair: list[Heartbeats]) -> None:
    assert not pair[0].lost(1.5)
    pair[1].stop()
    assert pair[0].find_lost() == [1]
    assert pair[0].lost(1.5) == [1]


def test_the_message_names_processes() -> None:
    error = LostProcessError([3, 5], "the state is saved")
    assert str(error).startswith("process 3, 5 of the training is lost (")
    assert str(error).endswith("; the state is saved")
    assert error.exit_status == 1
    assert str(LostProcessError(list(range(20)))).startswith("process 0, 1, 2, 3, 4, 5, 6, 7 and 12 more of ")
    assert "another process" in str(LostProcessError([]))
