"""Requests that are refused, and the reason that is counted for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from imagecap.errors import ImageCapError

Reason = Literal["table", "picture", "parameter", "cost", "pixels", "busy"]


class Refusal(ImageCapError):
    """A mistake of the client, or a server that is busy.

    Attributes:
        reason: what is wrong: the columns or rows of the table, a picture, a parameter, or the cost or the pixels of
            the whole request; or the server is busy.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def refusing(reason: Reason) -> Iterator[None]:
    """Raise every `ImageCapError` of the block or decorated function as a `Refusal` with this reason.

    A `Refusal` of an inner block keeps its own reason.
    """
    try:
        yield
    except Refusal:
        raise
    except ImageCapError as error:
        raise Refusal(str(error), reason) from None


def reason_of(error: ImageCapError) -> str:
    """Return the reason of a refusal; errors of the scheduler are about the prompt or the decoding parameters."""
    return error.reason if isinstance(error, Refusal) else "parameter"
