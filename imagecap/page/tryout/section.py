"""The routes of the section "Try"."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.languages import LANGUAGES
from imagecap.page.answers import json_body
from imagecap.page.context import PageContext
from imagecap.page.tryout.captioning import LIMITS, Captioning, Task
from imagecap.page.tryout.pictures import UploadedPictures
from imagecap.page.tryout.remote import caption_by_server

# Those that the form of the section offers; others have their defaults.
_OFFERED = (
    "prompt",
    "max_length",
    "min_length",
    "num_beams",
    "num_captions",
    "length_penalty",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "sample_seed",
    "caption_start",
)


def routes(context: PageContext) -> list[BaseRoute]:
    """Return the routes of the section."""
    section = _Section(context)
    return [
        Route("/api/try/options", section.options),
        Route("/api/try/pictures", section.add_picture, methods=["POST"]),
        Route("/api/try/captions", section.caption, methods=["POST"]),
        Route("/api/try/explanation", section.explain, methods=["POST"]),
    ]


def offered(context: PageContext) -> bool:
    """Whether there is anything that captions."""
    return context.server is not None or bool(context.models.entries)


class _Section:
    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._pictures = UploadedPictures(LIMITS)
        self._captioning = Captioning(context.models, context.settings.generate)

    def options(self, _: Request) -> Response:
        """The prompts of each model by language, the defaults of the settings, and the limits."""
        models = []
        for entry in self._context.models.entries:
            info = self._context.models.info(entry.name)
            prompt = info.get("prompt")
            prompts = {code: text for code, text in (info.get("prompts") or {}).items() if code in LANGUAGES}
            models.append({"name": entry.name, "folder": str(entry.folder), "prompt": prompt, "prompts": prompts})
        defaults = self._context.settings.generate.model_dump(include=set(_OFFERED))
        return JSONResponse(
            {
                "models": models,
                "defaults": defaults,
                "builtin": GenerateSettings().model_dump(include=set(_OFFERED)),
                "most_bytes": LIMITS.max_picture_bytes,
                "server": self._context.server,
            }
        )

    async def add_picture(self, request: Request) -> Response:
        """Keep the picture that is the body."""
        content = await request.body()
        name, picture = await run_in_threadpool(self._pictures.add, content)
        return JSONResponse({"picture": name, "width": picture.width, "height": picture.height})

    async def caption(self, request: Request) -> Response:
        """Caption a picture; the answer has one JSON object per line, as `Captioning.stream` yields them."""
        body = await json_body(request)
        picture = self._pictures.get(_text(body, "picture"))
        params = _params(body)
        if self._context.server is not None:
            found = await run_in_threadpool(self._ask_server, picture.content, params)
            return StreamingResponse(iter([_line(found)]), media_type="application/x-ndjson")
        settings = self._captioning.settings(params)
        task = Task(picture, self._context.models.entry(_text(body, "model")).name, settings)
        return StreamingResponse(_lines(self._captioning.stream(task)), media_type="application/x-ndjson")

    def _ask_server(self, content: bytes, params: dict[str, Any]) -> dict[str, Any]:
        assert self._context.server is not None
        given = {name: value for name, value in params.items() if value is not None}
        found = caption_by_server(self._context.server, content, given)
        first = {"text": found["caption"], "score": found["score"], "tokens": []}
        return {"captions": [first, *({"text": text, "score": None, "tokens": []} for text in found["others"])]}

    async def explain(self, request: Request) -> Response:
        """Say how sure the model was of the words of a caption, and where it looked."""
        body = await json_body(request)
        if self._context.server is not None:
            raise ImageCapError("a server tells neither what it was sure of nor where it looked")
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens) or len(tokens) > 4096:
            raise ImageCapError("tokens: must be a list of at most 4096 token ids")
        picture = self._pictures.get(_text(body, "picture"))
        model = self._context.models.entry(_text(body, "model")).name
        task = Task(picture, model, self._captioning.settings(_params(body)))
        return JSONResponse(await run_in_threadpool(self._captioning.explain, task, tokens))


async def _lines(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for event in events:
        yield _line(event)


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise ImageCapError(f"{name}: must be a text")
    return value


def _params(body: Mapping[str, Any]) -> dict[str, Any]:
    params = body.get("settings") or {}
    if not isinstance(params, dict):
        raise ImageCapError("settings: must be a JSON object")
    unknown = sorted(map(str, params.keys() - set(_OFFERED)))
    if unknown:
        raise ImageCapError(f"settings: {unknown[0]!r} is not offered here")
    return params
