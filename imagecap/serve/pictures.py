"""Reading the pictures of requests in bounded memory: one by one, and large ones one after the other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from PIL import ImageFile

from imagecap.data.images import PictureError, decode_image, load_image, open_image
from imagecap.data.locations import Location
from imagecap.data.strips import decode_in_strips
from imagecap.model.tiles.tiled import Pixels
from imagecap.serve.request import Limits, read_picture
from imagecap.serve.scheduler import Scheduler
from imagecap.serve.server_process import trim_heap

_LARGE_PIXELS = 2_000_000  # pictures above it are decoded with few copies
_ROOM_BESIDE = 10_000_000  # pixels of small pictures that are decoded beside the largest picture


class PictureReader:
    """Decodes and resizes pictures of any number of requests. Any thread may call it.

    At a time it holds as many decoded pixels as the largest allowed picture has, and a few smaller pictures.

    Args:
        limits: limits of a request.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._room = threading.Condition()
        self._used = 0

    def read(self, value: Any, row: str, scheduler: Scheduler) -> Pixels:
        """Decode, resize and normalise the picture of one row: `[3, height, width]` or tiles; see `read_picture`."""
        return read_picture(value, row, self._limits, partial(self._decode, scheduler))

    def read_content(self, content: bytes, scheduler: Scheduler) -> Pixels:
        """Decode, resize and normalise the content of a picture file: `[3, height, width]` or tiles.

        Raises:
            PictureError: it is no picture, or larger than the limits allow.
        """
        if len(content) > self._limits.max_picture_bytes:
            raise PictureError(f"is larger than {self._limits.max_picture_bytes} bytes")
        with open_image(content, self._limits.max_image_pixels) as opened:
            return self._decode(scheduler, opened, content)

    def _decode(self, scheduler: Scheduler, opened: ImageFile.ImageFile, source: Location | bytes) -> Pixels:
        pixels, least_side = opened.width * opened.height, scheduler.least_side
        with self._holding(pixels):
            if pixels <= _LARGE_PIXELS:
                return scheduler.preprocess(decode_image(opened, source, least_side))
            trim_heap()  # the request bodies of many large pictures leave much of it free
            image = decode_in_strips(opened, least_side)
            if image is not opened:
                opened.close()  # frees its pixels
            if image is None:
                image = load_image(source, self._limits.max_image_pixels, least_side)
            return scheduler.preprocess(image)

    @contextmanager
    def _holding(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for these pixels, and hold it during the block."""
        room = self._limits.max_image_pixels + _ROOM_BESIDE
        with self._room:
            self._room.wait_for(lambda: self._used == 0 or self._used + pixels <= room)
            self._used += pixels
        try:
            yield
        finally:
            with self._room:
                self._used -= pixels
                self._room.notify_all()
