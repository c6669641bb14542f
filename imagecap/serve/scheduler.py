"""The scheduler of a server: one thread decodes the pictures of all requests, token by token, in turns.

Each request runs in a thread of the server. It reads and resizes its pictures one by one, puts them into a queue and
blocks until their captions are done. The decoding thread (`decoding.DecodingLoop`) repeats:

1. It takes the new pictures from the queue, and drops those of requests that nobody waits for any more.
2. It chooses a batch: the running batch (`generate.continuous_batch`), which up to `max_rows` pictures join and leave
   between two tokens, or one of the separate batches (`generate.caption_batch`) of pictures with beam search or several
   captions. All pictures are in separate batches if the model does not support continuous batching.
3. It generates the next token of every caption in this batch.

One prefill of several pictures costs less than one prefill each. So if fewer pictures are new than half of those that
run, the scheduler delays their prefill for at most `waiting.GATHER_SECONDS`, in which more pictures may arrive.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.decoders import supports_continuous_batching
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import resolve_prompt, tokenize_prompt
from imagecap.languages import ENGLISH
from imagecap.model.tiles.tiled import Pixels
from imagecap.serve.decoding import DecodingLoop
from imagecap.serve.log import NAME
from imagecap.serve.monitoring import Monitor
from imagecap.serve.waiting import CaptionRequest, ModelCall, PictureJob, RequestEnded, WaitingPictures, Watch

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.model.imagecap_arch import ImageCaptioner

Result = TypeVar("Result")

MAX_ROWS = 32  # pictures decoded together; more wait in the queue
MOST_WAITING = 16  # resized pictures of a request that wait at once; the next one is not read before

_log = logging.getLogger(NAME)


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
        on_death: called in the decoding thread if it ends by an exception, after all requests have got it; may be None.
    """

    def __init__(
        self,
        model: "ImageCaptioner",
        max_rows: int = MAX_ROWS,
        monitor: Monitor | None = None,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._model, self._monitor = model, monitor or Monitor()
        self._waiting = WaitingPictures(continuous=supports_continuous_batching(model), max_rows=max_rows)
        self._on_death = on_death
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked: dict[CaptionRequest, list[PictureJob]] = {}  # of the requests that somebody waits for

    def caption(
        self, pictures: "Sequence[Image]", prompt: str | None, settings: GenerateSettings, deadline: float = math.inf
    ) -> tuple[list[GeneratedCaption], Timing]:
        """Caption RGB pictures; see `caption_pixels`."""
        return self.caption_pixels(map(self.preprocess, pictures), len(pictures), prompt, settings, deadline)

    def warm_up(self) -> None:
        """Caption a drawn picture, so that a model that cannot caption fails before it serves.

        Raises:
            ImageCapError: it cannot.
        """
        from PIL import Image

        picture = Image.linear_gradient("L").convert("RGB")
        prompt = str(self._model.info.get("prompt") or ENGLISH.prompt)
        try:
            self.caption([picture], prompt, GenerateSettings(max_length=4))
        except Exception as error:
            raise ImageCapError(f"the model cannot caption a picture ({type(error).__name__}: {error})") from error

    def preprocess(self, picture: "Image") -> Pixels:
        """Resize and normalise an RGB picture: `[3, height, width]` or tiles. Any thread may call it."""
        return self._model.preprocess([picture])[0]

    def caption_pixels(
        self,
        pictures: Iterable[Pixels],
        count: int,
        prompt: str | None,
        settings: GenerateSettings,
        deadline: float = math.inf,
        watch: Watch | None = None,
    ) -> tuple[list[GeneratedCaption], Timing]:
        """Caption the pictures of one request; blocks until all captions are done. Any thread may call it.

        Args:
            pictures: resized pictures, `[3, height, width]` or tiles each. They are taken one by one, and none before
                the number of those that wait is low enough; so those that are made when they are asked for take little
                memory.
            count: number of pictures, at most.
            prompt: prompt of all pictures; None: `settings.prompt`, else the default prompt of the model.
            settings: decoding settings, already validated.
            deadline: time of `time.monotonic` at which decoding stops.
            watch: follows the tokens while they are generated, and may cancel the request; may be None.

        Returns:
            A caption per picture, and the timing. If there is no caption of a picture, `GeneratedCaption.error` says
            why; other pictures are not concerned.

        Raises:
            ImageCapError: there is no prompt, or it is too long for the model.
            RequestEnded: the deadline is over, or `watch` has cancelled the request.
            Exception: any exception that the model, or `pictures`, raised. The other pictures are then not decoded
                further.
        """
        missing = "params: prompt: give a prompt; none is saved with the model"
        text = resolve_prompt(self._model, settings, prompt, missing=missing)
        request = CaptionRequest(tokenize_prompt(self._model, text, settings), settings, count, deadline, watch=watch)
        jobs: list[PictureJob] = []
        try:
            for pixel_values in pictures:
                if request.ended(time.monotonic()):
                    raise RequestEnded
                jobs.append(PictureJob(pixel_values, request, len(jobs)))
                self.put(jobs[-1])
                if len(jobs) > MOST_WAITING:
                    jobs[-MOST_WAITING].taken.wait()
            captions = [self._result(job) for job in jobs]
        finally:
            self.forget(request)
        timing = Timing(
            max((job.joined_at - job.queued_at for job in jobs), default=0.0),
            sum(len(caption.token_ids) for caption in captions),
        )
        return captions, timing

    def call(self, function: "Callable[[ImageCaptioner], Result]") -> Result:
        """Call a function with the model in the decoding thread, between two tokens; returns what it returns.

        It runs inside `torch.inference_mode` and holds up all captions meanwhile. Any thread may call this method.

        Raises:
            Exception: any exception that the function raised.
        """
        call = ModelCall(function)
        self.put(call)
        call.done.wait()
        if call.error is not None:
            raise call.error
        result: Result = call.result
        return result

    def read(self, function: "Callable[[ImageCaptioner], Result]") -> Result:
        """Call a function in this thread that reads tokenizer or settings of the model and does not run it."""
        return function(self._model)

    @property
    def least_side(self) -> int | None:
        """See `ImageCaptioner.least_side`."""
        return self._model.least_side

    @property
    def dtype(self) -> str:
        """The type of the model's weights, such as `float32`."""
        return str(self._model.dtype).removeprefix("torch.")

    def close(self) -> None:
        """End the decoding thread. All requests must have ended, and no others may follow."""
        with self._start_lock:
            if self._thread is not None:
                self._waiting.close()

    def put(self, job: PictureJob | ModelCall) -> None:
        """Queue a picture or a call, and start the decoding thread, unless it runs already.

        `forget` must follow when the request of the picture has ended.
        """
        with self._start_lock:
            if isinstance(job, PictureJob):
                self._asked.setdefault(job.request, []).append(job)
            self._waiting.put(job)
            if self._thread is None:
                # A daemon thread does not keep the process alive. On shutdown the server first completes its requests.
                self._thread = threading.Thread(target=self._run, name="imagecap-decoding", daemon=True)
                self._thread.start()

    def forget(self, request: CaptionRequest) -> None:
        """Note that nobody waits for the captions of a request any more, of which no other picture may be put."""
        request.cancelled = True
        with self._start_lock:
            self._asked.pop(request, None)

    def _result(self, job: PictureJob) -> GeneratedCaption:
        """Wait for the caption of a picture."""
        job.done.wait()
        if job.error is not None:
            raise job.error
        assert job.caption is not None
        return job.caption

    def _run(self) -> None:
        """Run the loop of the decoding thread."""
        try:
            DecodingLoop(self._model, self._waiting, self._monitor).run()
        except BaseException as error:
            _log.critical("the decoding thread ended", exc_info=True)
            with self._start_lock:  # the next picture starts a new thread
                self._thread = None
                self._waiting.drop_all(error)
                asked, self._asked = self._asked, {}
            for job in chain.from_iterable(asked.values()):
                if not job.done.is_set():
                    job.finish(None, error)
            if self._on_death is not None:
                self._on_death(error)
