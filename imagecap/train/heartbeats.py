"""Finding out that a process of a distributed training is lost: killed, stopped, or behind a network that is cut.

A collective waits for a lost process until its timeout, since waiting can be long for good reasons, such as a large
state that is being saved. So every process counts up a number in the store of the process group, from a thread, and
looks at those of the others. The thread also ends the training when the `torchrun` that started this process is gone.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from imagecap.errors import EXIT_FAILED, ImageCapError

if TYPE_CHECKING:
    from torch.distributed import Store

INTERVAL = 2.0  # seconds between two beats
SHORT_SILENCE = 10.0  # seconds after which a process is lost, if a connection has broken
SILENCE = 120.0  # seconds after which it is lost without any other sign
_GRACE = 10.0  # seconds that the main thread has to notice by itself
_LONGEST = 60.0  # seconds after which the process ends without saving, if the main thread computes all the time


class LostProcessError(ImageCapError):
    """Other processes of the training cannot be reached.

    Attributes:
        ranks: of the processes; empty if it is not known which ones.
    """

    exit_status = EXIT_FAILED

    def __init__(self, ranks: list[int], outcome: str = "") -> None:
        self.ranks = ranks
        shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
        who = f"process {shown}" if ranks else "the connection to another process"
        super().__init__(
            f"{who} of the training is lost (killed or stopped, or its machine cannot be reached)"
            + (outcome and f"; {outcome}")
        )


class Heartbeats:
    """Sends the heartbeats of this process, and watches those of the others.

    Args:
        store: the store of the process group; the threads use a connection of their own.
        rank: of this process.
        size: number of processes.
        silence: seconds after which a process is lost.

    Attributes:
        save: saves what was trained, given the ranks of the lost processes; returns what it did, as a part of a
            sentence. None: there is nothing to save yet.
        waiting: whether the main thread is in a collective, where the training state does not change.
    """

    def __init__(self, store: "Store", rank: int, size: int, silence: float | None = None) -> None:
        self._store, self.rank = store.clone(), rank  # type: ignore[attr-defined]
        self._silence = SILENCE if silence is None else silence
        self._keys = [f"imagecap/beat/{number}" for number in range(size)]
        self.save: Callable[[list[int]], str] | None = None
        self.waiting = False
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._values: list[bytes] = [b""] * size
        now = time.monotonic()
        self._changed, self._answered = [now] * size, now
        self._noticed = threading.Event()
        self._stopped = threading.Event()
        self._store.set(self._keys[rank], "0")

    def start(self) -> None:
        """Start the threads, in all processes at about the same time."""
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def stop(self) -> None:
        """End the threads."""
        self._stopped.set()

    def lost(self, silence: float) -> list[int]:
        """The ranks of the processes that have been silent for so many seconds.

        If the store does not answer, that is process 0, on whose machine it is.
        """
        now = time.monotonic()
        if now - self._answered > silence:
            return [0] if self.rank else [rank for rank in range(len(self._keys)) if rank]
        return [rank for rank, then in enumerate(self._changed) if rank != self.rank and now - then > silence]

    def find_lost(self) -> list[int]:
        """Wait until it is known which processes are lost, after a connection has broken; empty if none is silent."""
        self._noticed.set()
        end = time.monotonic() + self._silence
        found: list[int] = []
        while not found and time.monotonic() < end:
            time.sleep(INTERVAL / 4)
            found = self.lost(min(SHORT_SILENCE, self._silence))
        return found

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(INTERVAL):
            count += 1
            try:
                self._store.set(self._keys[self.rank], str(count))
                values = self._store.multi_get(self._keys)
            except (
                RuntimeError
            ):  # the store is gone, and no connection is made anew; `lost` sees that it does not answer
                return
            self._answered = now = time.monotonic()
            for rank, value in enumerate(values):
                if value != self._values[rank]:
                    self._values[rank], self._changed[rank] = value, now

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(INTERVAL / 2):
            now = time.monotonic()
            if now - last > self._silence / 2:  # this process was stopped, and has heard nothing meanwhile
                self._answered, self._changed = now, [now] * len(self._keys)
            last = now
            if self._parent is not None and os.getppid() != self._parent:
                self._parent = None
                os.kill(os.getpid(), signal.SIGTERM)
            if self.lost(self._silence) and not self._noticed.wait(_GRACE):
                self._end()

    def _end(self) -> None:
        """Save, say which processes are lost, and end this process, whose main thread waits for them."""
        end = time.monotonic() + _LONGEST
        while not self.waiting and time.monotonic() < end:
            time.sleep(INTERVAL / 4)
        lost = self.lost(self._silence)
        if not lost:
            return
        outcome = ""
        try:
            if self.save is not None and self.waiting:
                outcome = self.save(lost)
        except ImageCapError as error:
            outcome = str(error)
        print(f"error: process {self.rank}: {LostProcessError(lost, outcome)}", file=sys.stderr, flush=True)
        os._exit(EXIT_FAILED)
