"""Admission of requests by their cost, so that what waits is decoded in bounded time and memory.

The cost of a request is the number of tokens that it may need: pictures times beams (or captions) times tokens.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from imagecap.serve.refusals import Refusal

_KEPT = 4  # a quarter of the limit is kept for small requests
_SMALL = 64  # which cost at most this part of the limit
_REMEMBERED_SECONDS = 60
_UNKNOWN_SECONDS = 10  # what a client is told to wait before anything has been decoded


class Admission:
    """Admits requests until those that are decoded or wait cost together as much as allowed. Any thread may call it.

    Args:
        limit: largest cost of all admitted requests together; None: all are admitted.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._admitted = 0
        self._done: deque[tuple[float, int]] = deque()  # times and costs of the requests that have been decoded

    @contextmanager
    def admit(self, cost: int) -> Iterator[None]:
        """Hold the cost of a request during the block.

        Raises:
            Refusal: too much waits; the message says when to come back.
        """
        with self._lock:
            if self._limit is not None and self._admitted:
                limit = self._limit if cost <= self._limit // _SMALL else self._limit - self._limit // _KEPT
                if self._admitted + cost > limit:
                    raise Refusal(
                        f"the server is busy: {self._admitted} tokens wait, and the {cost} of this request would be "
                        f"more than {limit}: try again in {self._seconds()} seconds",
                        "busy",
                    )
            self._admitted += cost
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= cost
                self._done.append((time.monotonic(), cost))
                self._forget_old()

    def _seconds(self) -> int:
        """Seconds in which half of what waits should be done, by the costs of the last minute."""
        self._forget_old()
        if not self._done:
            return _UNKNOWN_SECONDS
        rate = sum(cost for _, cost in self._done) / max(1.0, time.monotonic() - self._done[0][0])
        return min(_REMEMBERED_SECONDS, math.ceil(self._admitted / 2 / rate))

    def _forget_old(self) -> None:
        oldest = time.monotonic() - _REMEMBERED_SECONDS
        while self._done and self._done[0][0] < oldest:
            self._done.popleft()
