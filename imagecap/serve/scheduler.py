"""The scheduler of a server: one thread decodes the pictures of all requests together (continuous batching).

Each request runs in a thread of the server. It resizes its pictures, puts them into a queue and blocks until their
captions are done. One decoding thread repeats:

1. It takes the new pictures from the queue.
2. It admits them to the running batch (`generate.continuous_batch`), up to `max_rows` pictures.
3. It decodes one batch of pictures that cannot join the running batch: those with beam search or several captions, and
   all pictures if the model does not support continuous batching. The running batch pauses for this time.
4. It generates the next token of every picture in the running batch.

One prefill of several pictures costs less than one prefill each. So if fewer pictures are new than are running, the
scheduler delays their prefill for at most `GATHER_SECONDS`, in which more pictures may arrive.
"""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.generate.captioner import GeneratedCaption, caption_pixels
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption, can_join, start_caption
from imagecap.generate.decoders import supports_continuous_batching
from imagecap.generate.prompts import (
    TokenizedPrompt,
    caption_text,
    embed_prefixes,
    resolve_prompt,
    tokenize_prompt,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.model.imagecap_arch import ImageCaptioner

MAX_ROWS = 32  # pictures decoded together; more wait in the queue
# Longest delay of a prefill, in seconds: a few steps of a small model, less than one step of a large model.
GATHER_SECONDS = 0.01
# Models with fewer parameters decode no faster with one more core, so one core is left free to resize pictures.
_SMALL_MODEL = 50_000_000

_log = logging.getLogger("imagecap.serve")


@dataclass
class Timing:
    """Timing of a request.

    Attributes:
        queued: seconds that a picture waited in the queue, the maximum over the pictures of the request.
        tokens: number of tokens generated.
    """

    queued: float = 0.0
    tokens: int = 0


@dataclass(eq=False)
class _Job:
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

    @property
    def can_join(self) -> bool:
        """Whether the caption can join the running batch."""
        return can_join(self.settings)

    def finish(self, caption: GeneratedCaption | None, error: BaseException | None = None) -> None:
        """Store the caption or the error, and wake the thread of the request."""
        self.caption, self.error = caption, error
        self.done.set()


class Scheduler:
    """Captions pictures for any number of threads at once.

    Args:
        model: the captioner; no other code may use it at the same time.
        max_rows: maximum number of pictures in a batch.
    """

    def __init__(self, model: "ImageCaptioner", max_rows: int = MAX_ROWS) -> None:
        self._model = model
        self._max_rows = max_rows
        self._continuous = supports_continuous_batching(model)
        self._waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._pending: list[_Job] = []  # taken from the queue, not in a batch yet
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def caption(
        self, pictures: "Sequence[Image]", prompt: str | None, settings: GenerateSettings
    ) -> tuple[list[GeneratedCaption], Timing]:
        """Caption the pictures of one request; blocks until all captions are done. Any thread may call it.

        Args:
            pictures: RGB pictures.
            prompt: prompt of all pictures; None: `settings.prompt`, else the default prompt of the model.
            settings: decoding settings, already validated.

        Raises:
            ImageCapError: there is no prompt, or it is too long for the model.
            Exception: any exception that the model raised.
        """
        missing = "params: prompt: give a prompt; none is saved with the model"
        tokenized = tokenize_prompt(
            self._model, resolve_prompt(self._model, settings, prompt, missing=missing), settings
        )
        jobs = [_Job(self._model.preprocess([picture])[0], tokenized, settings) for picture in pictures]
        self._start()
        for job in jobs:
            self._waiting.put(job)
        for job in jobs:
            job.done.wait()
        captions = []
        for job in jobs:
            if job.error is not None:
                raise job.error
            assert job.caption is not None
            captions.append(job.caption)
        queued = max(job.joined_at - job.queued_at for job in jobs)
        timing = Timing(queued, sum(len(caption.token_ids) for caption in captions))
        return captions, timing

    def _start(self) -> None:
        """Start the decoding thread, unless it runs already."""
        with self._start_lock:
            if self._thread is None or not self._thread.is_alive():
                # A daemon thread does not keep the process alive. On shutdown the server first completes its requests.
                self._thread = threading.Thread(target=self._run, name="imagecap-decoding", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Run the loop of the decoding thread; it never returns."""
        self._model.llava.eval()
        if sum(weight.numel() for weight in self._model.llava.parameters()) < _SMALL_MODEL:
            torch.set_num_threads(max(1, torch.get_num_threads() - 1))
        batch = ContinuousBatch(self._model)
        with torch.inference_mode():
            while True:
                self._collect(wait=not batch.rows and not self._pending)
                # Listed before the step: if it fails, rows that ended in it are not in `batch.rows` any more.
                running = [row.key for row in batch.rows]
                try:
                    running += self._join(batch)
                    self._decode_separately()
                    if batch.rows:
                        for row in batch.step():
                            self._finish(row)
                except BaseException as error:  # raised again in the threads of the requests; this thread continues
                    _log.exception("decoding failed")
                    for job in running:
                        if not job.done.is_set():
                            job.finish(None, error)
                    batch = ContinuousBatch(self._model)

    def _collect(self, *, wait: bool) -> None:
        """Move the jobs from the queue to `_pending`; with `wait`, block until there is at least one."""
        if wait:
            self._pending.append(self._waiting.get())
        while not self._waiting.empty():
            self._pending.append(self._waiting.get())

    def _join(self, batch: ContinuousBatch) -> list[_Job]:
        """Admit pending pictures to the running batch, the oldest first, up to `max_rows` rows.

        Pictures whose prompts have one shape share a prefill. No picture is admitted yet if there are fewer than the
        running rows, fewer than the free rows, and the oldest has waited less than `GATHER_SECONDS`.

        Returns:
            The admitted jobs.
        """
        if not self._continuous:
            return []
        joined: list[_Job] = []
        room = self._max_rows - len(batch.rows)
        joining = [job for job in self._pending if job.can_join][:room]
        if 0 < len(joining) < min(len(batch.rows), room) and time.monotonic() - joining[0].queued_at < GATHER_SECONDS:
            return []
        for shape in dict.fromkeys(job.prompt.shape for job in joining):
            group = [job for job in joining if job.prompt.shape == shape]
            self._pending = [job for job in self._pending if job not in group]
            try:
                pixels = self._pixels(group)
                prefix, prefix_ids = embed_prefixes(
                    self._model, self._model.encode_images(pixels), [job.prompt for job in group]
                )
                rows = [
                    start_caption(self._model, job.prompt, job.settings, prefix_ids[place], pixels[place], key=job)
                    for place, job in enumerate(group)
                ]
                batch.admit(prefix, rows)
            except BaseException as error:  # `admit` has not changed the running rows: only this group fails
                _log.exception("prefill failed")
                for job in group:
                    job.finish(None, error)
                continue
            for job in group:
                job.joined_at = time.monotonic()
            joined += group
        return joined

    def _finish(self, row: RunningCaption) -> None:
        """Hand the caption of an ended row to the thread of its request."""
        text = caption_text(self._model, row.tokens, row.settings)
        row.key.finish(GeneratedCaption(text, row.tokens, row.score))

    def _decode_separately(self) -> None:
        """Decode one batch of pending pictures that cannot join the running batch, from prefill to the last token.

        The batch holds the oldest such picture and those with the same settings and prompt shape.
        """
        separate = [job for job in self._pending if not (job.can_join and self._continuous)]
        if not separate:
            return
        first = separate[0]
        group = [job for job in separate if job.settings == first.settings and job.prompt.shape == first.prompt.shape]
        group = group[: self._max_rows]
        self._pending = [job for job in self._pending if job not in group]
        for job in group:
            job.joined_at = time.monotonic()
        try:
            captions = caption_pixels(
                self._model,
                self._pixels(group),
                [job.prompt for job in group],
                first.settings,
            )
        except BaseException as error:
            _log.exception("decoding failed")
            for job in group:
                job.finish(None, error)
            return
        for job, caption in zip(group, captions, strict=True):
            job.finish(caption)

    def _pixels(self, group: Sequence[_Job]) -> Tensor:
        """Pixel values `[rows, 3, height, width]` of a group, on the device and in the dtype of the encoder."""
        embedding = self._model.vision_tower.embeddings.patch_embedding.weight
        return torch.stack([job.pixel_values for job in group]).to(self._model.device, embedding.dtype)
