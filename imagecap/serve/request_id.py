"""The id of a request: the client's own, or a random one.

MLflow's server hands neither headers to the model nor headers of the model to the client. Therefore the id is a
parameter of the request, and comes back in the rows of the answer or in the JSON of an error.
"""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from imagecap.serve.refusals import Refusal

REQUEST_ID = "request_id"
"""Name of the parameter, and of the column and the key by which it comes back."""

_ALLOWED = re.compile(r"[A-Za-z0-9_.:/+=@-]{1,128}")


def split_request_id(params: Mapping[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
    """Return the request id that the client sent, None if there is none, and the other parameters.

    Raises:
        Refusal: it is no string of 1 to 128 of the allowed characters.
    """
    others = dict(params or {})
    value = others.pop(REQUEST_ID, None)
    if value is None or value == "":
        return None, others
    if not isinstance(value, str) or not _ALLOWED.fullmatch(value):
        raise Refusal(
            f"params: {REQUEST_ID}: must be 1 to 128 letters, digits or characters of _.:/+=@-, not {value!r:.40}",
            "parameter",
        )
    return value, others


def new_request_id() -> str:
    """Return a random id for a request that came without one."""
    return secrets.token_hex(8)
