"""Requests are admitted until too much waits, and small ones a little longer."""

import re
import sys

import pytest

from imagecap.serve import admission
from imagecap.serve.admission import Admission
from imagecap.serve.refusals import Refusal


def test_a_quarter_is_kept_for_small_requests() -> None:
    admitting = Admission(6400)
    with admitting.admit(4000):
        with pytest.raises(Refusal, match="4000 tokens wait, and the 801 of this request would be more than 4800"):
            admitting.admit(801).__enter__()
        with admitting.admit(800), admitting.admit(100), admitting.admit(100), pytest.raises(Refusal) as refused:
            admitting.admit(101).__enter__()
        assert refused.value.reason == "busy"
        with admitting.admit(801 - 1):
            pass
    with admitting.admit(9999):
        pass  # nothing else waits
    with Admission(None).admit(10**9), Admission(None).admit(10**9):
        pass


def test_a_client_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    admitting = Admission(1000)

    def seconds() -> int:
        with pytest.raises(Refusal) as refused:
            admitting.admit(500).__enter__()
        return int(re.findall(r"try again in (\d+) seconds", str(refused.value))[0])

    with admitting.admit(700):
        assert seconds() == 10, "nothing is known"
    for _ in range(5):  # 100 tokens per second
        now[0] += 2
        with admitting.admit(200):
            pass
    now[0] += 1
    with admitting.admit(600):
        assert 2 <= seconds() <= 4
        now[0] += 1000
        assert seconds() == 10, "what is known is too old"


def test_requests_of_long_ago_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a server that never refuses one."""
    now = [1000.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    admitting, blocks = Admission(1000), []
    for _ in range(2):
        for _ in range(1000):
            now[0] += 1
            with admitting.admit(1):
                pass
        blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 500
