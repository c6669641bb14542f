"""The pictures of requests that wait for their decoding, and the choice of those that are decoded next."""

import queue
import threading
import time
from dataclasses import dataclass, field

from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.generate.continuous_batch import can_join
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import TokenizedPrompt

# Longest delay of a prefill, in seconds: a few steps of a small model, less than one step of a large model.
GATHER_SECONDS = 0.01


@dataclass(eq=False)
class PictureJob:
    """One picture of a request, from the queue to its caption.

    Attributes:
        pixel_values: the resized picture, `[3, height, width]`.
        prompt: its prompt.
        settings: decoding settings.
        queued_at: time at which the job was made, just before it is queued.
        joined_at: time at which decoding of its batch began (running batch: at which its prefill ended).
        done: is set when `caption` or `error` is known.
        caption: the result.
        error: the exception that decoding raised.
    """

    pixel_values: Tensor
    prompt: TokenizedPrompt
    settings: GenerateSettings
    queued_at: float = field(default_factory=time.monotonic)
    joined_at: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)
    caption: GeneratedCaption | None = None
    error: BaseException | None = None

    def finish(self, caption: GeneratedCaption | None, error: BaseException | None = None) -> None:
        """Store the caption or the error, and wake the thread of the request."""
        self.caption, self.error = caption, error
        self.done.set()


class WaitingPictures:
    """The waiting pictures, the oldest first. Any thread may call `put`; the rest is for the decoding thread.

    Args:
        continuous: whether pictures may join a running batch; if not, all of them are decoded separately.
    """

    def __init__(self, *, continuous: bool) -> None:
        self._continuous = continuous
        self._queue: queue.SimpleQueue[PictureJob] = queue.SimpleQueue()
        self._collected: list[PictureJob] = []

    def __len__(self) -> int:
        """Number of pictures that `collect` has taken from the queue and that wait."""
        return len(self._collected)

    def put(self, job: PictureJob) -> None:
        """Queue a picture."""
        self._queue.put(job)

    def collect(self, *, wait: bool) -> None:
        """Take all pictures from the queue; with `wait`, block until there is at least one."""
        if wait:
            self._collected.append(self._queue.get())
        while not self._queue.empty():
            self._collected.append(self._queue.get())

    def take_joining(self, running: int, room: int) -> list[PictureJob]:
        """Take the pictures that join the running batch now.

        None does yet if there are fewer than the running rows and fewer than the free rows, and the oldest has waited
        less than `GATHER_SECONDS`: one prefill of several pictures costs less than one prefill each.

        Args:
            running: number of rows of the batch.
            room: number of rows that may join it.
        """
        joining = [job for job in self._collected if self._joins(job)][:room]
        if 0 < len(joining) < min(running, room) and time.monotonic() - joining[0].queued_at < GATHER_SECONDS:
            return []
        return self._take(joining)

    def take_separate(self, most: int) -> list[PictureJob]:
        """Take up to `most` pictures of one batch that is decoded separately, from prefill to the last token.

        They are the oldest picture that cannot join the running batch, and those with the same settings and prompt
        shape.
        """
        separate = [job for job in self._collected if not self._joins(job)]
        return self._take(
            [
                job
                for job in separate
                if job.settings == separate[0].settings and job.prompt.shape == separate[0].prompt.shape
            ][:most]
        )

    def _joins(self, job: PictureJob) -> bool:
        return self._continuous and can_join(job.settings)

    def _take(self, jobs: list[PictureJob]) -> list[PictureJob]:
        self._collected = [job for job in self._collected if job not in jobs]
        return jobs
