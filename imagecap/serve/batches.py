"""The batches of a server: the running batch that pictures join, and those that are decoded separately.

Both take turns of one token (`decoding.DecodingLoop`). A failure of a batch is not that of all its pictures: each is
decoded again alone, and only one that fails alone as well gets the error.
"""

import logging
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from imagecap.generate.caption_batch import CaptionBatch, picture_uniforms
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption, start_caption
from imagecap.generate.generated import decoded_caption
from imagecap.generate.prompts import embed_prefixes
from imagecap.model.tiles.tiled import Pixels, together
from imagecap.model.vision_encoder.clip_encoder import patch_weight
from imagecap.serve.log import NAME
from imagecap.serve.monitoring import Monitor
from imagecap.serve.waiting import PictureJob, WaitingPictures

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

_log = logging.getLogger(NAME)


class SharedBatch:
    """The running batch: pictures with one caption each join it and leave it at any turn.

    Args:
        model: the captioner.
        waiting: pictures are taken from it.
        monitor: is told of tokens.

    Attributes:
        used: the time of its turns, divided by the number of requests.
    """

    def __init__(self, model: "ImageCaptioner", waiting: WaitingPictures, monitor: Monitor) -> None:
        self._model, self._waiting, self._monitor = model, waiting, monitor
        self._batch = ContinuousBatch(model)
        self.used = 0.0

    @property
    def jobs(self) -> list[PictureJob]:
        """The pictures that are being captioned."""
        return [row.key for row in self._batch.rows]

    @property
    def active(self) -> bool:
        """Whether it has rows, or pictures wait that may join it."""
        return bool(self._batch.rows) or self._waiting.any_joining

    def turn(self) -> None:
        """Admit waiting pictures, and generate the next token of each row."""
        # Listed before the step: if it fails, rows that ended in it are not in the batch any more.
        running = self.jobs
        try:
            running += self._join(running)
            rows = list(self._batch.rows)
            if rows:
                ended = self._batch.step()
                self._monitor.count_tokens(len(rows))
                _report_first_tokens(self._monitor, [row.key for row in rows if len(row.tokens) == 1])
                for row in rows:
                    watch = row.key.request.watch
                    if watch is not None:
                        watch.on_tokens(row.key.place, list(row.tokens))
                for row in ended:
                    self._finish(row)
        except Exception as error:
            _log.exception("decoding failed")
            self._batch = ContinuousBatch(self._model)
            self._waiting.retry_alone([job for job in running if not job.done.is_set()], error)

    def remove(self, jobs: Collection[PictureJob]) -> None:
        """Remove pictures; the others go on as if they had not been there."""
        self._batch.remove([place for place, row in enumerate(self._batch.rows) if row.key in jobs])

    def _join(self, running: Sequence[PictureJob]) -> list[PictureJob]:
        """Admit waiting pictures; those whose prompts have one shape share a prefill. Returns the admitted ones."""
        joined: list[PictureJob] = []
        joining = self._waiting.take_joining(running)
        for shape in dict.fromkeys(job.request.prompt.shape for job in joining):
            group = [job for job in joining if job.request.prompt.shape == shape]
            try:
                pixels = _pixels(self._model, group)
                prefix, prefix_ids = embed_prefixes(
                    self._model, self._model.encode_images(pixels), [job.request.prompt for job in group]
                )
                rows = [
                    start_caption(
                        self._model, job.request.prompt, job.request.settings, prefix_ids[place], pixels[place], key=job
                    )
                    for place, job in enumerate(group)
                ]
                self._batch.admit(prefix, rows)
            except Exception as error:  # `admit` has not changed the running rows
                _log.exception("prefill failed")
                self._waiting.retry_alone(group, error)
                continue
            for job in group:
                job.joined_at = time.monotonic()
            joined += group
        return joined

    def _finish(self, row: RunningCaption) -> None:
        """Hand the caption of an ended row to the thread of its request."""
        try:
            caption = decoded_caption(self._model, row.tokens, row.score, row.settings)
        except Exception as error:  # only this row fails
            _log.exception("decoding of tokens failed")
            row.key.finish(None, error)
            return
        row.key.finish(caption)


class SeparateBatch:
    """Pictures that cannot join the running batch: with beam search, several captions, or after a failure.

    Args:
        model: the captioner.
        waiting: takes the pictures back if the batch fails.
        monitor: is told of tokens.
        jobs: the pictures, which have the same settings and prompt shape.
        used: the time that its turns are counted from.

    Attributes:
        used: the time of its turns, divided by the number of requests.
    """

    def __init__(
        self,
        model: "ImageCaptioner",
        waiting: WaitingPictures,
        monitor: Monitor,
        jobs: Sequence[PictureJob],
        used: float,
    ) -> None:
        self._model, self._waiting, self._monitor = model, waiting, monitor
        self._jobs = dict(enumerate(jobs))  # by number, without those that are done
        self._batch: CaptionBatch | None = None
        self.used = used

    @property
    def jobs(self) -> list[PictureJob]:
        """The pictures that are being captioned."""
        return list(self._jobs.values())

    @property
    def active(self) -> bool:
        """Whether a picture is not done."""
        return bool(self._jobs)

    def turn(self) -> None:
        """Run the prefill in the first turn, and generate the next token of each caption."""
        try:
            first = self._batch is None
            if self._batch is None:
                self._batch = self._start(self.jobs)
            finished = self._batch.step()
            if first:
                _report_first_tokens(self._monitor, self.jobs)
            for number, caption in finished.items():
                self._monitor.count_tokens(sum(len(each.token_ids) for each in (caption, *caption.others)))
                self._jobs.pop(number).finish(caption)
        except Exception as error:
            _log.exception("decoding failed")
            self._waiting.retry_alone(self.jobs, error)
            self._jobs.clear()

    def remove(self, jobs: Collection[PictureJob]) -> None:
        """Remove pictures; the others go on as if they had not been there."""
        numbers = [number for number, job in self._jobs.items() if job in jobs]
        if self._batch is None:  # the numbers are given when it starts
            self._jobs = dict(enumerate(job for job in self.jobs if job not in jobs))
            return
        for number in numbers:
            del self._jobs[number]
        self._batch.remove(numbers)

    def _start(self, jobs: Sequence[PictureJob]) -> CaptionBatch:
        now = time.monotonic()
        for job in jobs:
            job.joined_at = now
        pixels, settings = _pixels(self._model, jobs), jobs[0].request.settings
        prompts = [job.request.prompt for job in jobs]
        uniforms = picture_uniforms(pixels, prompts, settings)
        return CaptionBatch(self._model, self._model.encode_images(pixels), prompts, settings, uniforms)


def _report_first_tokens(monitor: Monitor, jobs: Sequence[PictureJob]) -> None:
    now = time.monotonic()
    for job in jobs:
        monitor.observe_first_token(now - job.queued_at)


def _pixels(model: "ImageCaptioner", jobs: Sequence[PictureJob]) -> Pixels:
    """Pixel values of pictures, `[rows, 3, height, width]` or tiles, on the device and in the dtype of the encoder."""
    embedding = patch_weight(model.vision_tower)
    pixels = [job.pixel_values for job in jobs if job.pixel_values is not None]
    return together(pixels).to(model.device, embedding.dtype)
