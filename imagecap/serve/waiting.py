"""The pictures of requests that wait for their decoding, and the choice of those that are decoded next.

Small requests come first: a picture stands in line as if it had come `LINE_SECONDS` later for each picture of its
request before it. So a request of one picture does not wait for a request of 64, and the 64 are not put off for ever.
"""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from imagecap.config import GenerateSettings
from imagecap.generate.continuous_batch import can_join
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import TokenizedPrompt
from imagecap.model.tiles.tiled import Pixels

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

# Longest delay of a prefill, in seconds: some steps of a small model, about one step of a large model.
GATHER_SECONDS = 0.03
LINE_SECONDS = 0.05
# While others run or wait, a prefill has at most this many pictures, and a batch of its own this many captions.
_PREFILL_PICTURES, _SEPARATE_CAPTIONS = 8, 32
_SMALL_PICTURES = 4  # pictures of a small request, at most
_LONG_TOKENS = 2048  # beams times tokens of a picture, above which its decoding is long


class RequestEnded(Exception):
    """Nobody waits for the captions of a request any more: its time is over, or another picture of it failed."""


class Kind(Enum):
    """Kinds of requests. The value is the number of separate batches that pictures of a kind may have at once.

    So none waits for the end of another kind, and those of a kind that come meanwhile share the next batch.
    """

    SMALL = 2
    LARGE = 3  # many pictures
    LONG = 4  # many beams times tokens for a picture


@dataclass(eq=False)
class Watch:
    """Follows the decoding of a request while it runs.

    Attributes:
        on_tokens: called in the decoding thread after each token of a picture in the running batch, with the number of
            pictures before it in the request and a copy of its tokens so far. Pictures with beam search or several
            captions are not reported. If a batch fails, its pictures begin again.
        cancelled: may be set by any thread; the captions are then not decoded further.
    """

    on_tokens: Callable[[int, list[int]], None]
    cancelled: bool = False


@dataclass(eq=False)
class ModelCall:
    """A function that the decoding thread calls with the model between two turns.

    Attributes:
        function: the function.
        done: is set when it has returned or raised.
        result: what it returned.
        error: what it raised.
    """

    function: "Callable[[ImageCaptioner], Any]"
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None

    def run(self, model: "ImageCaptioner") -> None:
        """Call the function, and wake the thread that waits for it."""
        try:
            self.result = self.function(model)
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self.done.set()


@dataclass(eq=False)
class CaptionRequest:
    """What the pictures of one request share.

    Attributes:
        prompt: their prompt.
        settings: decoding settings.
        pictures: number of pictures.
        deadline: time of `time.monotonic` at which the client gets no answer any more.
        cancelled: whether the captions are not wanted any more.
        watch: follows the decoding; may be None.
    """

    prompt: TokenizedPrompt
    settings: GenerateSettings
    pictures: int = 1
    deadline: float = math.inf
    cancelled: bool = False
    watch: Watch | None = None

    @property
    def captions(self) -> int:
        """Captions that are generated at once for a picture: its beams or its samples."""
        return max(self.settings.num_beams, self.settings.num_captions)

    @property
    def kind(self) -> Kind:
        """How much work it is."""
        if self.captions * self.settings.max_length > _LONG_TOKENS:
            return Kind.LONG
        return Kind.LARGE if self.pictures > _SMALL_PICTURES else Kind.SMALL

    def ended(self, now: float) -> bool:
        """Whether nobody waits for the captions any more."""
        return self.cancelled or now >= self.deadline or (self.watch is not None and self.watch.cancelled)


@dataclass(eq=False)
class PictureJob:
    """One picture of a request, from the queue to its caption.

    Attributes:
        pixel_values: the resized picture, `[3, height, width]` or tiles; None after the end.
        request: its request.
        place: number of pictures of the request before it.
        queued_at: time at which the job was made, just before it is queued.
        joined_at: time at which decoding of its batch began (running batch: at which its prefill ended).
        alone: whether it must have a batch of its own, because a batch that it was in failed.
        taken: is set when the picture does not wait any more.
        done: is set when `caption` or `error` is known.
        caption: the result.
        error: the exception that decoding raised.
    """

    pixel_values: Pixels | None
    request: CaptionRequest
    place: int = 0
    queued_at: float = field(default_factory=time.monotonic)
    joined_at: float = 0.0
    alone: bool = False
    taken: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    caption: GeneratedCaption | None = None
    error: BaseException | None = None

    @property
    def in_line(self) -> float:
        """Pictures are taken in the order of this time."""
        return self.queued_at + self.place * LINE_SECONDS

    def finish(self, caption: GeneratedCaption | None, error: BaseException | None = None) -> None:
        """Store the caption or the error, and wake the thread of the request."""
        self.caption, self.error, self.pixel_values = caption, error, None
        self.joined_at = self.joined_at or time.monotonic()
        self.taken.set()
        self.done.set()


class WaitingPictures:
    """The waiting pictures. Any thread may call `put` and `close`; the rest is for the decoding thread.

    Args:
        continuous: whether pictures may join a running batch; if not, all of them are decoded separately.
        max_rows: maximum number of pictures in a batch.
    """

    def __init__(self, *, continuous: bool, max_rows: int) -> None:
        self._continuous, self._max_rows = continuous, max_rows
        # None: no more pictures come
        self._queue: queue.SimpleQueue[PictureJob | ModelCall | None] = queue.SimpleQueue()
        self._calls: deque[ModelCall] = deque()
        self._collected: list[PictureJob] = []
        self.closed = False

    def __len__(self) -> int:
        """Number of pictures that `collect` has taken from the queue and that wait."""
        return len(self._collected)

    @property
    def any_joining(self) -> bool:
        """Whether a picture waits that may join the running batch."""
        return any(self._joins(job) for job in self._collected)

    def put(self, job: PictureJob | ModelCall) -> None:
        """Queue a picture or a call."""
        self._queue.put(job)

    @property
    def any_call(self) -> bool:
        """Whether a call waits."""
        return bool(self._calls)

    def take_call(self) -> ModelCall | None:
        """Take the oldest waiting call; None if there is none."""
        return self._calls.popleft() if self._calls else None

    def collect(self, *, wait: bool) -> None:
        """Take everything from the queue; with `wait`, block until there is something, or `close` is called."""
        while wait or not self._queue.empty():
            wait = False
            job = self._queue.get()
            if job is None:
                self.closed = True
            elif isinstance(job, ModelCall):
                self._calls.append(job)
            else:
                self._collected.append(job)

    def close(self) -> None:
        """Say that no more pictures come; `closed` is true after the next `collect`."""
        self._queue.put(None)

    def retry_alone(self, jobs: Iterable[PictureJob], error: BaseException) -> None:
        """Put pictures of a failed batch back, each to be decoded alone; one that was alone gets the error."""
        for job in jobs:
            if job.alone:
                job.finish(None, error)
            else:
                job.alone = True
                self._collected.append(job)

    def drop_ended(self, now: float) -> None:
        """Remove the pictures of requests that nobody waits for."""
        ended = [job for job in self._collected if job.request.ended(now)]
        if ended:
            self._take(ended)
            for job in ended:
                job.finish(None, RequestEnded())

    def drop_all(self, error: BaseException) -> None:
        """Finish all waiting pictures and calls with an error."""
        self.collect(wait=False)
        while (call := self.take_call()) is not None:
            call.error = error
            call.done.set()
        for job in self._take(self._collected):
            job.finish(None, error)

    def take_joining(self, running: Sequence[PictureJob]) -> list[PictureJob]:
        """Take the pictures that join the running batch now.

        A quarter of its rows is kept for small requests. None joins yet if there are fewer than half of the running
        rows and fewer than the free rows, and the oldest has waited less than `GATHER_SECONDS`: one prefill of several
        pictures costs less than one prefill each.

        Args:
            running: the pictures of the batch.
        """
        room = self._max_rows - len(running)
        if running:
            room = min(room, _PREFILL_PICTURES)
        large = self._max_rows - self._max_rows // 4
        large -= sum(job.request.kind is not Kind.SMALL for job in running)
        joining: list[PictureJob] = []
        for job in sorted(filter(self._joins, self._collected), key=lambda job: job.in_line):
            if len(joining) == room:
                break
            if job.request.kind is not Kind.SMALL:
                large -= 1
                if large < 0:
                    continue
            joining.append(job)
        gathering = 0 < len(joining) < min(math.ceil(len(running) / 2), room)
        if gathering and time.monotonic() - min(job.queued_at for job in joining) < GATHER_SECONDS:
            return []
        return self._take(joining)

    def take_separate(self, running: Collection[Sequence[PictureJob]], *, shared: bool) -> list[PictureJob]:
        """Take the pictures of the next batch that is decoded separately, if one may start now.

        They are the first picture in line that cannot join the running batch, and those with the same settings and
        prompt shape. A request has one such batch at a time, and a kind of requests `Kind.value`.

        Args:
            running: the pictures of the separate batches that run.
            shared: whether the running batch has rows, or pictures that may join it.
        """
        busy = {job.request for jobs in running for job in jobs}
        kinds = [jobs[0].request.kind for jobs in running if jobs]
        separate = [
            job
            for job in self._collected
            if not self._joins(job)
            and job.request not in busy
            and kinds.count(job.request.kind) < job.request.kind.value
        ]
        if not separate:
            return []
        separate.sort(key=lambda job: job.in_line)
        first = separate[0]
        if first.alone:
            return self._take([first])
        only = not shared and not running and all(job.request is first.request for job in self._collected)
        most = self._max_rows if only else max(1, _SEPARATE_CAPTIONS // first.request.captions)
        return self._take([job for job in separate if not job.alone and _share(job.request, first.request)][:most])

    def _joins(self, job: PictureJob) -> bool:
        return self._continuous and not job.alone and can_join(job.request.settings)

    def _take(self, jobs: list[PictureJob]) -> list[PictureJob]:
        taken = set(map(id, jobs))
        self._collected = [job for job in self._collected if id(job) not in taken]
        for job in jobs:
            job.taken.set()
        return jobs


def _share(one: CaptionRequest, other: CaptionRequest) -> bool:
    """Whether pictures of two requests can share a separate batch."""
    return one is other or (
        one.kind is other.kind and one.settings == other.settings and one.prompt.shape == other.prompt.shape
    )
