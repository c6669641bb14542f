"""The requests of the section Correct."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from imagecap.data.images import load_image, thumbnail_jpeg
from imagecap.errors import ImageCapError
from imagecap.page.answers import json_body
from imagecap.page.context import PageContext
from imagecap.page.correct import commands
from imagecap.page.correct.decisions import Author, ConflictError
from imagecap.page.correct.replacing import Replacement, replacements
from imagecap.page.correct.selection import Filter, page_of
from imagecap.page.correct.session import CorrectSession
from imagecap.page.correct.writing import write_captions

_SIDES = (160, 640, 1600)
_MOST_ROWS = 200
_MOST_ALIKE = 12
_PREVIEW = 50
_MOST_NAME = 80

Values = dict[str, Any]


def routes(context: PageContext) -> list[BaseRoute]:
    """Open the queue, and return the routes of the section.

    Raises:
        ImageCapError: what is to be corrected cannot be read.
    """
    api = _Api(CorrectSession(context))
    return [
        Route("/api/correct/summary", _getting(lambda _: api.session.summary())),
        Route("/api/correct/items", _getting(api.items)),
        Route("/api/correct/item/{row:int}", _getting(api.item)),
        Route("/api/correct/history", _getting(api.history)),
        Route("/api/correct/picture/{row:int}", api.picture),
        Route("/api/correct/commands", _getting(api.commands)),
        Route("/api/correct/change", _posting(api.change), methods=["POST"]),
        Route("/api/correct/undo", _posting(api.undo), methods=["POST"]),
        Route("/api/correct/replace", _posting(api.replace), methods=["POST"]),
        Route("/api/correct/write", _posting(api.write), methods=["POST"]),
        Route("/api/correct/alike", _posting(api.alike), methods=["POST"]),
        Route("/api/correct/start", _posting(api.start), methods=["POST"]),
        Route("/api/correct/stop", _posting(api.stop), methods=["POST"]),
    ]


class _Api:
    """What requests ask for. Methods take the values of a request and return the answer."""

    def __init__(self, session: CorrectSession) -> None:
        self.session, self.queue = session, session.queue

    def items(self, values: Values) -> Values:
        page = page_of(
            self.queue.columns,
            Filter.of(values),
            str(values.get("order") or "file"),
            min(_MOST_ROWS, _number(values, "limit", 30)),
            _row(values, "after"),
            _row(values, "before"),
        )
        return {
            "items": [self.queue.item(row) for row in page.rows],
            "total": page.total,
            "position": page.position,
            "version": self.queue.version,
        }

    def item(self, values: Values) -> Values:
        row = _number(values, "row")
        item = self.queue.item(row)
        columns = self.queue.columns
        same = [other for other in columns.names.equal(item["image"]).tolist() if other != row]
        alike = [other for other in np.flatnonzero(columns.group == item["group"]).tolist() if item["group"] >= 0]
        others = [other for other in alike if columns.names[other] != item["image"]]
        return {
            "item": item,
            "same": [self.queue.item(other) for other in same[:_MOST_ALIKE]],
            "alike": [self.queue.item(other) for other in others[:_MOST_ALIKE]],
        }

    def history(self, values: Values) -> Values:
        return {"entries": self.queue.history(min(_MOST_ROWS, _number(values, "limit", 30)), _row(values, "before"))}

    def picture(self, request: Request) -> Response:
        """A picture as a JPEG without metadata: the bytes of the file never reach the browser."""
        side = _number(dict(request.query_params), "side", _SIDES[1])
        side = next((each for each in _SIDES if side <= each), _SIDES[-1])
        file = self.queue.picture(request.path_params["row"])
        image = load_image(file, self.session.context.settings.data.max_image_pixels, side)
        content = thumbnail_jpeg(image, side)
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    def change(self, values: Values) -> Values:
        caption = _text(values, "caption")
        row, revision = _number(values, "row"), _number(values, "revision")
        return {
            "item": self.queue.change(
                row, revision, _text(values, "action"), caption, self._author(values), _text(values, "token")
            )
        }

    def undo(self, values: Values) -> Values:
        return self.queue.undo(self._author(values), _text(values, "token"), _row(values, "number"))

    def replace(self, values: Values) -> Values:
        """Preview a replacement, or make it if `apply` is true."""
        replacement = Replacement(
            _text(values, "find"),
            _text(values, "replace"),
            values.get("match_case") is True,
            values.get("whole_words") is True,
        )
        filters = values.get("filter")
        version = self.queue.version
        found = replacements(self.queue.columns, Filter.of(filters if isinstance(filters, dict) else {}), replacement)
        if values.get("apply") is True:
            seen = _number(values, "version")
            changed = self.queue.change_many(found, seen, self._author(values), _text(values, "token"))
            return {"changed": changed, "left": len(found) - changed}
        shown = [{"item": self.queue.item(row), "after": after} for row, after in found[:_PREVIEW]]
        return {"count": len(found), "version": version, "shown": shown}

    def write(self, values: Values) -> Values:
        return write_captions(self.queue, _text(values, "form"))

    def alike(self, _: Values) -> Values:
        self.session.find_alike()
        return self.session.summary()["alike"]

    def commands(self, values: Values) -> Values:
        return self.session.commands_status(_number(values, "start", 0))

    def start(self, values: Values) -> Values:
        self.session.start_commands(_text(values, "kind"))
        return self.session.commands_status(0)

    def stop(self, _: Values) -> Values:
        commands.stop(self.session.commands_folder)
        return {}

    def _author(self, values: Values) -> Author:
        name = re.sub(r"\s+", " ", _text(values, "who")).strip()[:_MOST_NAME]
        model = self.session.model
        return Author(name or "anonymous", (model.uri or model.name) if model else None)


def _getting(work: Callable[[Values], Values]) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return JSONResponse(work({**request.query_params, **request.path_params}))

    return endpoint


def _posting(work: Callable[[Values], Values]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        values = dict(await json_body(request))
        try:
            return JSONResponse(await run_in_threadpool(work, values))
        except ConflictError as error:
            return JSONResponse({"error": str(error), "item": error.item}, 409)

    return endpoint


def _text(values: Values, name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str):
        raise ImageCapError(f"{name} must be text")
    return value


def _row(values: Values, name: str) -> int | None:
    return None if values.get(name) in (None, "") else _number(values, name)


def _number(values: Values, name: str, default: int | None = None) -> int:
    value = values.get(name, default)
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
    except ValueError:
        raise ImageCapError(f"{name} must be a whole number") from None
    if not 0 <= number < 1 << 40:
        raise ImageCapError(f"{name} must not be negative or so large")
    return number
