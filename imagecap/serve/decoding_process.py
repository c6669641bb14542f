"""Decoding in a process of its own, so that requests and decoding do not wait for one interpreter lock.

A decoding thread gives the lock up in every operation of torch, and gets it back only when the thread that has taken
it meanwhile lets it go. With 16 clients it stood still for as long as requests were parsed and pictures were read.

The server's process keeps the tokenizer and the preprocessing of the model, but no weights. It sends pictures to the
decoding process (`decoding_worker`), which answers with captions. Times of `time.monotonic` are the same in both.
"""

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import imagecap
from imagecap.config import ComputeSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import load
from imagecap.serve.log import NAME
from imagecap.serve.messages import (
    Captioned,
    Close,
    Died,
    Ended,
    Failed,
    Load,
    Measured,
    NewPicture,
    NewRequest,
    Ready,
    Taken,
    packed,
)
from imagecap.serve.monitoring import Monitor
from imagecap.serve.scheduler import MAX_ROWS, Scheduler
from imagecap.serve.waiting import CaptionRequest, ModelCall, PictureJob

_log = logging.getLogger(NAME)


class ProcessScheduler(Scheduler):
    """A `Scheduler` whose decoding thread runs in a process of its own. It has no `call`, and no `watch`.

    Args:
        checkpoint: folder of the captioner.
        compute: device and dtype of the decoding process.
        max_rows: maximum number of pictures in a batch.
        monitor: is told what is decoded; None: nobody is.
        on_death: called if the process ends by itself, after all requests have got the error; may be None.

    Raises:
        ImageCapError: the captioner cannot be opened, or cannot caption a drawn picture.
    """

    def __init__(
        self,
        checkpoint: Path,
        compute: ComputeSettings,
        max_rows: int = MAX_ROWS,
        monitor: Monitor | None = None,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._process, self._connection = _start()
        try:
            self._connection.send(Load(checkpoint, compute, max_rows))
            model = load(checkpoint, weights=False)  # while the other process reads them
            super().__init__(model, max_rows, monitor, on_death)
            self._dtype = self._wait_until_ready()
        except BaseException:
            self._connection.close()  # the other process ends
            raise
        self._sending = threading.Lock()
        self._numbers = count()
        self._jobs: dict[int, PictureJob] = {}  # those that are not done, by number
        self._sent: dict[CaptionRequest, int] = {}  # requests that the process knows, and their numbers
        self._closed = False
        self._error: BaseException | None = None  # why it has ended by itself
        self._monitor.report_decoding_process(self._process.pid)
        threading.Thread(target=self._receive, name="imagecap-captions", daemon=True).start()

    @property
    def dtype(self) -> str:
        """The type of the model's weights, such as `float32`."""
        return self._dtype

    @property
    def decoding_pid(self) -> int:
        """Process id of the decoding process."""
        return self._process.pid

    def close(self) -> None:
        """End the decoding process. All requests must have ended, and no others may follow."""
        self._closed = True
        self._send(Close())

    def warm_up(self) -> None:
        """Do nothing: the decoding process has captioned a drawn picture before it was ready."""

    def _wait_until_ready(self) -> str:
        while True:
            try:
                answer = self._connection.recv()
            except (EOFError, OSError):
                raise ImageCapError(f"the decoding process ended with status {self._process.wait()}") from None
            if isinstance(answer, Failed):
                raise ImageCapError(answer.reason)
            if isinstance(answer, Ready):
                return answer.dtype
            assert isinstance(answer, Measured)
            answer.report(self._monitor)

    def put(self, job: PictureJob | ModelCall) -> None:
        """Send a picture to the decoding process."""
        if isinstance(job, ModelCall) or job.request.watch is not None:
            raise TypeError("the model is in another process, which neither calls functions nor reports tokens")
        assert job.pixel_values is not None
        pixels, job.pixel_values = packed(job.pixel_values), None
        request = job.request
        with self._start_lock:
            if self._error is not None:
                raise self._error
            number = next(self._numbers)
            self._jobs[number] = job
            new = None
            if request not in self._sent:
                self._sent[request] = number
                new = NewRequest(request.prompt, request.settings, request.pictures, request.deadline)
            message = NewPicture(number, self._sent[request], new, job.place, job.queued_at, pixels)
        self._send(message)

    def forget(self, request: CaptionRequest) -> None:
        """Tell the decoding process that nobody waits for the captions of a request any more."""
        request.cancelled = True
        with self._start_lock:
            number = self._sent.pop(request, None)
        if number is not None:
            self._send(Ended(number))

    def _send(self, message: Any) -> None:
        content = pickle.dumps(message, protocol=5)
        try:
            with self._sending:
                self._connection.send_bytes(content)
        except OSError:  # it has ended, which `_receive` sees
            _log.debug("the decoding process is gone")

    def _receive(self) -> None:
        """Hand captions to the threads of their requests, until the decoding process ends."""
        error: BaseException = RuntimeError("the decoding process ended")
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                break
            if isinstance(message, Captioned):
                with self._start_lock:
                    job = self._jobs.pop(message.number)
                job.joined_at = message.joined_at
                job.finish(message.caption, message.error)
            elif isinstance(message, Taken):
                with self._start_lock:
                    waiting = self._jobs.get(message.number)
                if waiting is not None:
                    waiting.taken.set()
            elif isinstance(message, Measured):
                message.report(self._monitor)
            elif isinstance(message, Died):
                error = message.error
        self._process.wait()
        if not self._closed:
            self._die(error)

    def _die(self, error: BaseException) -> None:
        with self._start_lock:
            self._error = error
            jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.finish(None, error)
        if self._on_death is not None:
            self._on_death(error)


def _start() -> tuple["subprocess.Popen[bytes]", Connection]:
    """Start a decoding process, which waits for `Load`; returns it and the connection to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        code = str(Path(imagecap.__file__).parent.parent)  # that of the registered version
        paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "imagecap.serve.decoding_worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    return process, Connection(ours.detach())
