"""The loop of the decoding thread: the batches of a server take turns of one token, so none waits for another's end.

Time is shared by requests. A batch counts the time of its turns, divided by the number of its requests, and the next
turn is that of the batch with the least. So two requests in a batch get twice the time of one request in another, and a
long beam search takes the time that is left by many short requests without stopping them. A batch that starts is
counted from the least time of the others: what it did not use before is not made up for (start-time fair queueing;
Goyal et al. 1996).
"""

import time
from typing import TYPE_CHECKING

import torch

from imagecap.serve.batches import SeparateBatch, SharedBatch
from imagecap.serve.monitoring import Monitor
from imagecap.serve.waiting import RequestEnded, WaitingPictures

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

# Models with fewer parameters decode no faster with one more core, so one core is left free to resize pictures.
_SMALL_MODEL = 50_000_000
_THREADS = torch.get_num_threads()  # before a loop has changed it


class DecodingLoop:
    """The batches of a server.

    Args:
        model: the captioner; no other code may use it at the same time.
        waiting: the waiting pictures.
        monitor: is told what is decoded; None: nobody is.
    """

    def __init__(self, model: "ImageCaptioner", waiting: WaitingPictures, monitor: Monitor | None = None) -> None:
        self._model, self._waiting, self._monitor = model, waiting, monitor or Monitor()
        self._shared = SharedBatch(model, waiting, self._monitor)
        self._separate: list[SeparateBatch] = []
        self._least = 0.0  # time used by the batch whose turn was the last
        self._shared_active = False

    @property
    def idle(self) -> bool:
        """Whether no picture or call waits, and no picture is being captioned."""
        return not self._waiting and not self._waiting.any_call and not self._separate and not self._shared.active

    def run(self) -> None:
        """Decode until the queue of waiting pictures is closed."""
        self._model.llava.eval()
        if sum(weight.numel() for weight in self._model.llava.parameters()) < _SMALL_MODEL:
            torch.set_num_threads(max(1, _THREADS - 1))
        with torch.inference_mode():
            while not self._waiting.closed:
                self._waiting.collect(wait=self.idle)
                self.turn()
                running = sum(len(batch.jobs) for batch in self._batches)
                self._monitor.report_load(running, len(self._waiting))

    def turn(self) -> None:
        """Run a waiting call, remove what nobody waits for, and let one batch generate one token per caption."""
        call = self._waiting.take_call()
        if call is not None:
            call.run(self._model)
        started = time.monotonic()
        self._drop_ended(started)
        shared = self._shared.active
        if shared and not self._shared_active:
            self._shared.used = max(self._shared.used, self._least)
        self._shared_active = shared
        jobs = self._waiting.take_separate([batch.jobs for batch in self._separate], shared=shared)
        if jobs:
            self._separate.append(SeparateBatch(self._model, self._waiting, self._monitor, jobs, self._least))
        active = [batch for batch in self._batches if batch.active]
        if not active:
            return
        batch = min(active, key=lambda batch: batch.used)
        self._least = max(self._least, batch.used)
        requests = {job.request for job in batch.jobs}
        batch.turn()
        requests |= {job.request for job in batch.jobs}  # those that have joined in this turn
        batch.used += (time.monotonic() - started) / max(1, len(requests))
        self._separate = [batch for batch in self._separate if batch.active]

    @property
    def _batches(self) -> list[SharedBatch | SeparateBatch]:
        return [self._shared, *self._separate]

    def _drop_ended(self, now: float) -> None:
        """Remove the pictures of requests that nobody waits for."""
        self._waiting.drop_ended(now)
        for batch in self._batches:
            ended = {job for job in batch.jobs if job.request.ended(now)}
            if ended:
                batch.remove(ended)
                for job in ended:
                    job.finish(None, RequestEnded())
        self._separate = [batch for batch in self._separate if batch.active]
