"""The decoding process of a server: `python -m imagecap.serve.decoding_worker DESCRIPTOR` (see `decoding_process`)."""

import logging
import os
import pickle
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.generate.captioner import open_captioner
from imagecap.generate.generated import GeneratedCaption
from imagecap.serve.environment import read_server_settings
from imagecap.serve.log import NAME, set_up_log
from imagecap.serve.messages import (
    Captioned,
    Close,
    Died,
    Ended,
    Failed,
    Load,
    Measured,
    NewPicture,
    Ready,
    Taken,
    unpacked,
)
from imagecap.serve.monitoring import Monitor
from imagecap.serve.scheduler import MOST_WAITING, Scheduler
from imagecap.serve.server_process import return_freed_memory, trim_heap_regularly
from imagecap.serve.waiting import CaptionRequest, PictureJob

_REPORT_SECONDS = 0.1  # between two reports for the metrics, while captions are generated

_log = logging.getLogger(NAME)


class Channel:
    """Sends messages to the server's process. Any thread may call it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        """Send a message; if the other process is gone, this one ends."""
        content = pickle.dumps(message, protocol=5)
        try:
            with self._lock:
                self._connection.send_bytes(content)
        except OSError:
            os._exit(0)


class _Reporting(Monitor):
    """A monitor that sends what it is told, some turns together."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._measured, self._sent_at = channel, Measured(), 0.0

    def report_load(self, rows: int, waiting: int) -> None:
        self._measured.rows, self._measured.waiting = rows, waiting
        if rows + waiting == 0 or time.monotonic() > self._sent_at + _REPORT_SECONDS:
            self._channel.send(self._measured)
            self._measured, self._sent_at = Measured(), time.monotonic()

    def count_tokens(self, tokens: int) -> None:
        self._measured.tokens += tokens

    def observe_first_token(self, seconds: float) -> None:
        self._measured.first_tokens.append(seconds)


class _TakenEvent(threading.Event):
    """Sends `Taken` when it is set."""

    def __init__(self, channel: Channel, number: int) -> None:
        super().__init__()
        self._channel, self._number = channel, number

    def set(self) -> None:
        if not self.is_set():
            self._channel.send(Taken(self._number))
        super().set()


@dataclass(eq=False)
class _SentJob(PictureJob):
    """A picture whose caption is sent when it is done."""

    channel: Channel = field(kw_only=True)
    number: int = field(kw_only=True)

    def finish(self, caption: GeneratedCaption | None, error: BaseException | None = None) -> None:
        self.joined_at = self.joined_at or time.monotonic()
        self.pixel_values = None
        self.channel.send(Captioned(self.number, caption, error and _sendable(error), self.joined_at))
        self.done.set()


def main(descriptor: int) -> None:
    """Open the captioner that the server's process names, and caption the pictures that it sends, until it ends."""
    # The process that is asked to end by these first answers its requests, and then closes the connection.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(descriptor)
    channel = Channel(connection)
    server = read_server_settings()
    set_up_log(as_json=server.json_log)
    return_freed_memory()
    order = connection.recv()
    assert isinstance(order, Load)
    monitor = None if server.metrics_port is None else _Reporting(channel)
    try:
        model = open_captioner(order.checkpoint, order.compute)
        scheduler = Scheduler(model, order.max_rows, monitor, lambda error: _end(channel, error))
        scheduler.warm_up()
    except ImageCapError as error:
        channel.send(Failed(str(error)))
        return
    trim_heap_regularly()
    channel.send(Ready(scheduler.dtype))
    _caption(connection, channel, scheduler)


def _caption(connection: Connection, channel: Channel, scheduler: Scheduler) -> None:
    """Put the pictures that arrive into the queue of the decoding thread."""
    requests: dict[int, CaptionRequest] = {}
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):  # the server's process is gone
            return
        if isinstance(message, NewPicture):
            if message.request is not None:
                new = message.request
                requests[message.request_number] = CaptionRequest(new.prompt, new.settings, new.pictures, new.deadline)
            request = requests[message.request_number]
            job = _SentJob(
                unpacked(message.pixels),
                request,
                message.place,
                message.queued_at,
                channel=channel,
                number=message.number,
            )
            if request.pictures > MOST_WAITING:
                job.taken = _TakenEvent(channel, message.number)
            scheduler.put(job)
        elif isinstance(message, Ended):
            scheduler.forget(requests.pop(message.request_number))
        elif isinstance(message, Close):
            return


def _end(channel: Channel, error: BaseException) -> None:
    channel.send(Died(_sendable(error)))
    os._exit(1)


def _sendable(error: BaseException) -> BaseException:
    """The exception if it can be pickled, else one with its name and its message."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # the decoding thread need not be waited for
