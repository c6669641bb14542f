"""The pictures that the page has been given, kept in memory until newer ones need their place."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from imagecap.data.images import PictureError, open_image, turn_of
from imagecap.errors import ImageCapError
from imagecap.serve.request import Limits

_MOST_BYTES = 256_000_000


@dataclass(frozen=True)
class UploadedPicture:
    """A picture.

    Attributes:
        content: of its file.
        width: in pixels, upright.
        height: in pixels, upright.
    """

    content: bytes
    width: int
    height: int


class UploadedPictures:
    """Pictures by a name that cannot be guessed. Any thread may call its methods.

    Args:
        limits: largest file and largest number of pixels.
        most_bytes: the files together; the ones that were used longest ago are dropped.
    """

    def __init__(self, limits: Limits, most_bytes: int = _MOST_BYTES) -> None:
        self._limits, self._most_bytes = limits, most_bytes
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, UploadedPicture] = OrderedDict()

    def add(self, content: bytes) -> tuple[str, UploadedPicture]:
        """Keep a picture; returns its name.

        Raises:
            ImageCapError: it is no picture, or too large.
        """
        if len(content) > self._limits.max_picture_bytes:
            raise PictureError(f"is larger than {self._limits.max_picture_bytes} bytes")
        with open_image(content, self._limits.max_image_pixels) as opened:
            width, height = opened.size
            turn = turn_of(opened)
        if turn is not None and turn.name in ("ROTATE_90", "ROTATE_270", "TRANSPOSE", "TRANSVERSE"):
            width, height = height, width
        picture, name = UploadedPicture(content, width, height), secrets.token_urlsafe(12)
        with self._lock:
            self._pictures[name] = picture
            while sum(len(each.content) for each in self._pictures.values()) > self._most_bytes:
                self._pictures.popitem(last=False)
        return name, picture

    def get(self, name: str) -> UploadedPicture:
        """Return a picture.

        Raises:
            ImageCapError: it was dropped, or the server has been started again since.
        """
        with self._lock:
            found = self._pictures.get(name)
            if found is None:
                raise ImageCapError("the server does not have this picture any more: add it again")
            self._pictures.move_to_end(name)
        return found
