"""Decoding many pictures, each once and on all cores: for their digests, or for whatever else is made of pixels."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from imagecap.data.images import PictureError, decode_image, load_image, open_image, picture_digest

Result = TypeVar("Result")

# From this size on pictures are decoded one at a time: eight of 100 megapixels at once would take several GB.
_LARGE_PIXELS = 16_000_000

_SECONDS_BEFORE_PROGRESS = 2.0


def digest_pictures(paths: Sequence[Path], max_pixels: int) -> list[str | PictureError]:
    """For each file its `picture_digest`, or why it cannot be read.

    A progress bar appears on stderr (if that is a terminal) when it takes long.
    """
    bar = tqdm(
        each_picture(picture_digest, paths, max_pixels),
        total=len(paths),
        desc="checking pictures",
        unit="picture",
        delay=_SECONDS_BEFORE_PROGRESS,
        disable=None,
        leave=False,
    )
    return list(bar)


def each_picture(
    work: Callable[[Image.Image], Result], paths: Sequence[Path], max_pixels: int
) -> Iterator[Result | PictureError]:
    """For each file, in order, what `work` makes of the picture, or why it cannot be read.

    Threads suffice, since Pillow decodes and hashlib hashes without holding the interpreter's lock. Memory does not
    grow with the number of pictures, as long as results are small.

    Args:
        work: called in threads with a picture as `load_image` gives it; its exceptions come out in their turn.
        paths: the files.
        max_pixels: see `load_image`.
    """
    large = Lock()

    def one(path: Path) -> Result | PictureError:
        try:
            with open_image(path, max_pixels) as opened:
                if opened.width * opened.height < _LARGE_PIXELS:
                    return work(decode_image(opened))
            with large:  # opened anew, so that its pixels are gone when the next one has its turn
                return work(load_image(path, max_pixels))
        except PictureError as error:
            return PictureError(error.reason)  # a new one: the old one's traceback would keep the pixels alive

    workers = min(8, _cores())
    with ThreadPoolExecutor(workers, thread_name_prefix="picture") as pool:
        waiting: deque[Future[Result | PictureError]] = deque()
        try:
            for path in paths:
                waiting.append(pool.submit(one, path))
                if len(waiting) > 8 * workers:  # a window, not one future per picture
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # on Ctrl-C: do not decode the rest of the window first
                future.cancel()


def _cores() -> int:
    """Cores that this process may use, which is fewer than the machine's in a container or under `taskset`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
