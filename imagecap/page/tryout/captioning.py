"""Captions of a picture by one of the page's models, token by token, and what the model looked at."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.explanation import explain
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import final_text, resolve_prompt, tokenize_prompt
from imagecap.generate.words import words_of
from imagecap.page.models import Models
from imagecap.page.tryout.pictures import UploadedPicture
from imagecap.serve.admission import Admission
from imagecap.serve.environment import MAX_REQUEST_TOKENS, MAX_WAITING_TOKENS
from imagecap.serve.pictures import PictureReader
from imagecap.serve.request import Limits, cost_of, read_parameters
from imagecap.serve.waiting import RequestEnded, Watch

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner
    from imagecap.serve.scheduler import Scheduler

LIMITS = Limits(max_request_tokens=MAX_REQUEST_TOKENS)
_MOST_SECONDS = 300.0
_NO_PROMPT = "this model brings no prompt: write one"


@dataclass(frozen=True)
class Task:
    """A picture to caption.

    Attributes:
        picture: the picture.
        model: name of the model.
        settings: decoding settings.
    """

    picture: UploadedPicture
    model: str
    settings: GenerateSettings


class Captioning:
    """Captions pictures with the models of the page. Any thread may call it.

    Args:
        models: the models.
        defaults: decoding settings where the user chose none.
    """

    def __init__(self, models: Models, defaults: GenerateSettings) -> None:
        self._models = models
        self._defaults = defaults.model_dump()
        self._reader = PictureReader(LIMITS)
        self._admission = Admission(MAX_WAITING_TOKENS)

    def settings(self, params: Mapping[str, Any]) -> GenerateSettings:
        """Check the decoding settings of a request.

        Raises:
            ImageCapError: one is unknown or out of range.
        """
        try:
            settings, _ = read_parameters(params, self._defaults, LIMITS)
        except ImageCapError as error:
            raise ImageCapError(str(error).removeprefix("params: ")) from None
        return settings

    async def stream(self, task: Task) -> AsyncIterator[dict[str, Any]]:
        """Caption a picture.

        Leaving the iterator stops the decoding.

        Yields:
            `{"opening"}` with the name of the model; `{"text"}`, at first empty when the model is open, then with the
            beginning of the caption that no later token changes, where it has one caption that is greedy or sampled;
            and at last `{"captions"}`, the finished captions, best first, or `{"error"}`.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | list[int]]()
        scheduler: list[Scheduler] = []

        def tell(event: dict[str, Any] | list[int]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        watch = Watch(lambda _, tokens: tell(tokens))

        def work() -> None:
            try:
                tell({"opening": task.model})
                scheduler.append(self._models.scheduler(task.model))
                tell({"text": ""})
                tell({"captions": self._captions(scheduler[0], task, watch)})
            except ImageCapError as error:
                tell({"error": str(error)})
            except RequestEnded:
                tell({"error": f"stopped after {_MOST_SECONDS:.0f} seconds: lower max_length or num_beams"})
            except Exception as error:
                tell({"error": f"captioning failed ({type(error).__name__}: {error})"})

        # A thread of its own, as those of the server shall not all wait for captions.
        threading.Thread(target=work, name="imagecap-caption", daemon=True).start()
        try:
            while True:
                event = await events.get()
                if isinstance(event, list):
                    while not events.empty():  # only the newest tokens matter
                        newer = events.get_nowait()
                        if not isinstance(newer, list):
                            events.put_nowait(newer)
                            break
                        event = newer
                    yield {"text": scheduler[0].read(partial(_beginning, event, task.settings))}
                    continue
                yield event
                if "captions" in event or "error" in event:
                    return
        finally:
            watch.cancelled = True

    def _captions(self, scheduler: "Scheduler", task: Task, watch: Watch) -> list[dict[str, Any]]:
        cost = cost_of(1, task.settings, LIMITS)
        with self._admission.admit(cost):
            pixels = self._reader.read_content(task.picture.content, scheduler)
            deadline = time.monotonic() + _MOST_SECONDS
            made, _ = scheduler.caption_pixels([pixels], 1, None, task.settings, deadline, watch)
        if made[0].error is not None:
            raise ImageCapError(made[0].error)
        return [_caption(caption) for caption in (made[0], *made[0].others)]

    def explain(self, task: Task, tokens: Sequence[int]) -> dict[str, Any]:
        """Return how sure the model was of each word of a caption, and where it looked; blocks until that is known.

        Args:
            task: as it was given to `stream`.
            tokens: token ids of the caption.

        Returns:
            `text`; `words`, each with `start`, `end`, `certainty` (the probability of its tokens together; None if it
            is part of `caption_start`), `on_picture` (the share of its attention that is on the picture) and `heat` (of
            each patch, row by row, 1 at the largest); `rows` and `columns` of the patches, and `region`, the part of
            the picture that they cover: left, top, width and height as shares of the picture. `heat` and `region` are
            None where they are not known.

        Raises:
            ImageCapError: the tokens are not those of a caption of this model.
        """
        scheduler = self._models.scheduler(task.model)
        pixels = self._reader.read_content(task.picture.content, scheduler)

        def read(model: "ImageCaptioner") -> dict[str, Any]:
            if not tokens or not all(0 <= token < model.embed_tokens.num_embeddings for token in tokens):
                raise ImageCapError("these tokens are not those of a caption of this model")
            prompt = tokenize_prompt(model, resolve_prompt(model, task.settings, missing=_NO_PROMPT), task.settings)
            found = explain(model, pixels, prompt, tokens)
            text, words = words_of(model, tokens, task.settings)
            rows, columns = model.grid
            region = model.visible_region(task.picture.width, task.picture.height)
            described = []
            for word in words:
                places = list(word.tokens)
                certainty = math.exp(float(found.log_probabilities[places].sum())) if places else None
                entry: dict[str, Any] = {"start": word.start, "end": word.end, "certainty": certainty}
                entry["on_picture"] = entry["heat"] = None
                if places and found.attention is not None:
                    heat = found.attention[places].mean(0).flatten()
                    entry["on_picture"] = round(float(heat.sum()), 4)
                    entry["heat"] = [round(value, 3) for value in (heat / heat.max().clamp_min(1e-12)).tolist()]
                described.append(entry)
            return {"text": text, "words": described, "rows": rows, "columns": columns, "region": region}

        return scheduler.call(read)


def _beginning(tokens: list[int], settings: GenerateSettings, model: "ImageCaptioner") -> str:
    return final_text(model, tokens, settings)


def _caption(caption: GeneratedCaption) -> dict[str, Any]:
    return {"text": caption.text, "score": caption.score, "tokens": caption.token_ids}
