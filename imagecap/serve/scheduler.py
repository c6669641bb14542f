"""The scheduler of a server: one thread decodes the pictures of all requests together (continuous batching).

Each request runs in a thread of the server. It resizes its pictures, puts them into a queue and blocks until their
captions are done. One decoding thread repeats:

1. It takes the new pictures from the queue.
2. It admits them to the running batch (`generate.continuous_batch`), up to `max_rows` pictures.
3. It decodes one batch of pictures that cannot join the running batch: those with beam search or several captions, and
   all pictures if the model does not support continuous batching. The running batch pauses for this time.
4. It generates the next token of every picture in the running batch.

One prefill of several pictures costs less than one prefill each. So if fewer pictures are new than are running, the
scheduler delays their prefill for at most `waiting.GATHER_SECONDS`, in which more pictures may arrive.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption_pixels
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption, start_caption
from imagecap.generate.decoders import supports_continuous_batching
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import caption_text, embed_prefixes, resolve_prompt, tokenize_prompt
from imagecap.serve.monitoring import Monitor
from imagecap.serve.waiting import PictureJob, WaitingPictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.model.imagecap_arch import ImageCaptioner

MAX_ROWS = 32  # pictures decoded together; more wait in the queue
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


class Scheduler:
    """Captions pictures for any number of threads at once.

    Args:
        model: the captioner; no other code may use it at the same time.
        max_rows: maximum number of pictures in a batch.
        monitor: is told what is decoded; None: nobody is.
    """

    def __init__(self, model: "ImageCaptioner", max_rows: int = MAX_ROWS, monitor: Monitor | None = None) -> None:
        self._model = model
        self._max_rows = max_rows
        self._monitor = monitor or Monitor()
        self._waiting = WaitingPictures(continuous=supports_continuous_batching(model))
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

        Returns:
            A caption per picture, and the timing. If no token could be chosen for a picture, its caption says so
            (`GeneratedCaption.error`); other pictures are not concerned.

        Raises:
            ImageCapError: there is no prompt, or it is too long for the model.
            Exception: any exception that the model raised.
        """
        missing = "params: prompt: give a prompt; none is saved with the model"
        tokenized = tokenize_prompt(
            self._model, resolve_prompt(self._model, settings, prompt, missing=missing), settings
        )
        jobs = [PictureJob(self._model.preprocess([picture])[0], tokenized, settings) for picture in pictures]
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
                self._waiting.collect(wait=not batch.rows and not self._waiting)
                # Listed before the step: if it fails, rows that ended in it are not in `batch.rows` any more.
                running = [row.key for row in batch.rows]
                try:
                    running += self._join(batch)
                    self._decode_separately()
                    if batch.rows:
                        rows = list(batch.rows)
                        ended = batch.step()
                        self._report_step(rows)
                        for row in ended:
                            self._finish(row)
                except BaseException as error:  # raised again in the threads of the requests; this thread continues
                    _log.exception("decoding failed")
                    for job in running:
                        if not job.done.is_set():
                            job.finish(None, error)
                    batch = ContinuousBatch(self._model)
                self._monitor.report_load(len(batch.rows), len(self._waiting))

    def _report_step(self, rows: Sequence[RunningCaption]) -> None:
        """Report a step of the running batch, in which each of these rows got a token."""
        now = time.monotonic()
        self._monitor.count_tokens(len(rows))
        for row in rows:
            if len(row.tokens) == 1:
                self._monitor.observe_first_token(now - row.key.queued_at)

    def _join(self, batch: ContinuousBatch) -> list[PictureJob]:
        """Admit waiting pictures to the running batch; those whose prompts have one shape share a prefill.

        Returns:
            The admitted jobs.
        """
        joined: list[PictureJob] = []
        joining = self._waiting.take_joining(len(batch.rows), self._max_rows - len(batch.rows))
        for shape in dict.fromkeys(job.prompt.shape for job in joining):
            group = [job for job in joining if job.prompt.shape == shape]
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
        try:
            text = caption_text(self._model, row.tokens, row.settings)
        except BaseException as error:  # only this row fails
            _log.exception("decoding of tokens failed")
            row.key.finish(None, error)
            return
        row.key.finish(GeneratedCaption(text, row.tokens, row.score))

    def _decode_separately(self) -> None:
        """Decode one batch of waiting pictures that cannot join the running batch, from prefill to the last token."""
        group = self._waiting.take_separate(self._max_rows)
        if not group:
            return
        for job in group:
            job.joined_at = time.monotonic()
        try:
            captions = caption_pixels(
                self._model,
                self._pixels(group),
                [job.prompt for job in group],
                group[0].settings,
            )
        except BaseException as error:
            _log.exception("decoding failed")
            for job in group:
                job.finish(None, error)
            return
        self._monitor.count_tokens(sum(len(caption.token_ids) for caption in captions))
        for job, caption in zip(group, captions, strict=True):
            job.finish(caption)

    def _pixels(self, group: Sequence[PictureJob]) -> Tensor:
        """Pixel values `[rows, 3, height, width]` of a group, on the device and in the dtype of the encoder."""
        embedding = self._model.vision_tower.embeddings.patch_embedding.weight
        return torch.stack([job.pixel_values for job in group]).to(self._model.device, embedding.dtype)
