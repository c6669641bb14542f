"""Answers and bodies in JSON that no caption or file name can break."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from imagecap.errors import ImageCapError


def json_answer(content: Any, status: int = 200) -> Response:
    """An answer in JSON. It is ASCII, so that halves of surrogate pairs in captions and file names do no harm."""
    return Response(json.dumps(content), status, media_type="application/json")


async def json_body(request: Request) -> Mapping[str, Any]:
    """The JSON object in a request.

    Raises:
        ImageCapError: the body is something else.
    """
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ImageCapError("the body of the request must be a JSON object")
    return found


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    """A parameter of the address that is a whole number in 0..`most`.

    Raises:
        ImageCapError: it is something else.
    """
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise ImageCapError(f"{name} must be a whole number from 0 to {most}")
    return int(text)
