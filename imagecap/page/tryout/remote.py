"""Captions from a running `mlflow models serve` in place of a model in this process."""

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from imagecap.errors import ImageCapError, one_line
from imagecap.redact import redact

_TIMEOUT = 90.0  # seconds; the server's own limit is 60
_MOST_ANSWER_BYTES = 10_000_000


def check_server(url: str) -> None:
    """Check that a captioning server answers at an address.

    Raises:
        ImageCapError: it is no address of a server, or none answers there.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImageCapError(f"--server {url} is no address; write one such as http://127.0.0.1:5001")
    _ask(url, "/ping", None, timeout=10.0)


def caption_by_server(url: str, picture: bytes, params: dict[str, Any]) -> dict[str, Any]:
    """Ask a server for the caption of a picture.

    Args:
        url: address of `mlflow models serve`.
        picture: content of the file.
        params: decoding parameters that the HTTP interface accepts.

    Returns:
        `caption`, `score`, and with several captions `others`.

    Raises:
        ImageCapError: the server does not answer, or refuses the picture or a parameter.
    """
    row = {"image": base64.b64encode(picture).decode("ascii")}
    body = json.dumps({"dataframe_records": [row], "params": params}).encode()
    answer = _ask(url, "/invocations", body, timeout=_TIMEOUT)
    try:
        found = json.loads(answer)["predictions"][0]
        return {"caption": str(found["caption"]), "score": float(found["score"]), "others": found.get("others") or []}
    except (ValueError, KeyError, IndexError, TypeError):
        raise ImageCapError(f"{redact(url)} is no server of ImageCap: it answers with something else") from None


def _ask(url: str, path: str, body: bytes | None, timeout: float) -> bytes:
    request = urllib.request.Request(  # noqa: S310  (the scheme has been checked)
        url.rstrip("/") + path, data=body, headers={"Content-Type": "application/json"} if body else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return bytes(answer.read(_MOST_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        raise ImageCapError(f"{redact(url)} refuses: {_reason(error)}") from None
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "reason", error))
        raise ImageCapError(f"{redact(url)} does not answer ({reason}): is `mlflow models serve` running?") from None


def _reason(error: urllib.error.HTTPError) -> str:
    """The sentence of ImageCap in an answer of MLflow, which puts its own words before it."""
    try:
        message = str(json.loads(error.read(_MOST_ANSWER_BYTES))["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"status {error.code}"
    return one_line(message.rpartition("Error: ")[2], 500)
