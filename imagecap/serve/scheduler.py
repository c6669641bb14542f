"""The scheduler of a server: one thread decodes the pictures of all requests together (continuous batching).

The thread of a request resizes its pictures and then waits. Between two tokens the decoding thread admits new pictures
to the running batch (`generate.continuous_batch`), so that no request waits until another has ended. A prefill of
several pictures costs less than one prefill each, so while others are decoded, a new picture waits a few milliseconds
for more to come. Captions that cannot join this batch, such as those of beam search, are decoded in batches of their
own between two tokens.
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
# How long a new picture waits for others, in seconds: a few steps of a small model, less than a step of a large one.
GATHER_SECONDS = 0.01
# Number of weights below which matrix products gain nothing from another core, which then resizes pictures.
_SMALL_MODEL = 50_000_000

_log = logging.getLogger("imagecap.serve")


@dataclass
class Timing:
    """Timing of a request.

    Attributes:
        queued: seconds from the request until its last picture joined a batch.
        tokens: number of tokens generated.
    """

    queued: float = 0.0
    tokens: int = 0


@dataclass(eq=False)
class _Job:
    """One picture of a request, from the queue to its caption."""

    pixel_values: Tensor
    prompt: TokenizedPrompt
    settings: GenerateSettings
    asked: float = field(default_factory=time.monotonic)
    joined: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)
    caption: GeneratedCaption | None = None
    error: BaseException | None = None

    @property
    def can_join(self) -> bool:
        """Whether the caption can join the running batch."""
        return can_join(self.settings)

    def finish(self, caption: GeneratedCaption | None, error: BaseException | None = None) -> None:
        self.caption, self.error = caption, error
        self.done.set()


class Scheduler:
    """Captions pictures for any number of threads at once.

    Args:
        model: the captioner; nothing else may use it at the same time.
        max_rows: how many pictures are decoded together.
    """

    def __init__(self, model: "ImageCaptioner", max_rows: int = MAX_ROWS) -> None:
        self._model = model
        self._max_rows = max_rows
        self._continuous = supports_continuous_batching(model)
        self._waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._pending: list[_Job] = []  # taken from the queue, not decoded yet
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def caption(
        self, pictures: "Sequence[Image]", prompt: str | None, settings: GenerateSettings
    ) -> tuple[list[GeneratedCaption], Timing]:
        """Caption the pictures of one request, and wait until all are done.

        Args:
            pictures: RGB pictures.
            prompt: for all of them; None: the model's own.
            settings: decoding settings, already validated.

        Raises:
            ImageCapError: there is no prompt, or it is too long for the model.
            Exception: whatever the model raised.
        """
        missing = "params: prompt: the model brings none of its own; give one"
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
        timing = Timing(max(job.joined - job.asked for job in jobs), sum(len(each.token_ids) for each in captions))
        return captions, timing

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                # a daemon thread: a server that is told to end waits for its requests before
                self._thread = threading.Thread(target=self._run, name="imagecap-decoding", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        self._model.llava.eval()
        if sum(weight.numel() for weight in self._model.llava.parameters()) < _SMALL_MODEL:
            torch.set_num_threads(max(1, torch.get_num_threads() - 1))
        batch = ContinuousBatch(self._model)
        with torch.inference_mode():
            while True:
                self._collect(wait=not batch.rows and not self._pending)
                # noted before the step: a row that ends in a step that fails is no longer in the batch
                inside = [row.key for row in batch.rows]
                try:
                    inside += self._join(batch)
                    self._decode_apart()
                    if batch.rows:
                        for row in batch.step():
                            self._finish(row)
                except BaseException as error:  # every caller must get the error, and decoding goes on
                    _log.exception("decoding failed")
                    for job in inside:
                        if not job.done.is_set():
                            job.finish(None, error)
                    batch = ContinuousBatch(self._model)

    def _collect(self, *, wait: bool) -> None:
        if wait:
            self._pending.append(self._waiting.get())
        while not self._waiting.empty():
            self._pending.append(self._waiting.get())

    def _join(self, batch: ContinuousBatch) -> list[_Job]:
        """Admit waiting pictures as far as there is room, the oldest first; pictures of one prompt length together.

        Returns:
            The admitted pictures.
        """
        if not self._continuous:
            return []
        joined: list[_Job] = []
        room = self._max_rows - len(batch.rows)
        joining = [job for job in self._pending if job.can_join][:room]
        if 0 < len(joining) < min(len(batch.rows), room) and time.monotonic() - joining[0].asked < GATHER_SECONDS:
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
            except BaseException as error:  # concerns these pictures only; the running rows are unchanged
                _log.exception("prefill failed")
                for job in group:
                    job.finish(None, error)
                continue
            for job in group:
                job.joined = time.monotonic()
            joined += group
        return joined

    def _finish(self, row: RunningCaption) -> None:
        text = caption_text(self._model, row.tokens, row.settings)
        row.key.finish(GeneratedCaption(text, row.tokens, row.score))

    def _decode_apart(self) -> None:
        """Decode one batch of pictures that cannot join the running batch: the oldest one and all with its settings."""
        apart = [job for job in self._pending if not (job.can_join and self._continuous)]
        if not apart:
            return
        first = apart[0]
        group = [job for job in apart if job.settings == first.settings and job.prompt.shape == first.prompt.shape]
        group = group[: self._max_rows]
        self._pending = [job for job in self._pending if job not in group]
        for job in group:
            job.joined = time.monotonic()
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
        embedding = self._model.vision_tower.embeddings.patch_embedding.weight
        return torch.stack([job.pixel_values for job in group]).to(self._model.device, embedding.dtype)
