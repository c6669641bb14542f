"""Many pictures decoded by threads: as by a plain loop, in order, and never many at once in memory."""

import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from imagecap.data import decoding
from imagecap.data.decoding import map_pictures
from imagecap.data.images import PictureError, load_image

LIMIT = 10**8
THREADS = 3


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """More pictures than the window, in several formats, every tenth damaged."""
    found = []
    for number in range(60):
        path = tmp_path / f"{number}.{('png', 'jpg', 'webp')[number % 3]}"
        Image.new("RGB", (8 + number, 9), (number, 2 * number, 255 - number)).save(path)
        if number % 10 == 9:
            path.write_bytes(path.read_bytes()[:30])
        found.append(path)
    return found


@pytest.mark.parametrize("large", [1, 30 * 9, LIMIT])
def test_results_are_those_of_a_plain_loop(paths: list[Path], large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LARGE_PIXELS", large)

    def read(path: Path) -> bytes | str:
        try:
            return load_image(path, LIMIT).tobytes()
        except PictureError as error:
            return error.reason

    found = list(map_pictures(Image.Image.tobytes, paths, LIMIT, THREADS))
    assert [each.reason if isinstance(each, PictureError) else each for each in found] == [read(p) for p in paths]
    assert sum(isinstance(each, PictureError) for each in found) == 6


@pytest.mark.parametrize(("large", "at_once"), [(LIMIT, THREADS), (1, 1)])
def test_few_are_in_memory_at_once(
    paths: list[Path], large: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as threads, of large ones one; and no more results ahead of who asks for them than the window."""
    monkeypatch.setattr(decoding, "LARGE_PIXELS", large)
    lock, meeting = threading.Lock(), threading.Barrier(at_once)
    now = most = done = 0

    def work(_: Image.Image) -> None:
        nonlocal now, most, done
        with lock:
            now, done = now + 1, done + 1
            most = max(most, now)
        if done <= at_once:
            meeting.wait(20)  # the first ones are here together,
            time.sleep(0.1)  # long enough for one too many to come
        with lock:
            now -= 1

    results = map_pictures(work, paths, LIMIT, THREADS)
    for taken, _ in enumerate(results, 1):
        assert done <= taken + 8 * THREADS
    assert most == at_once


def test_an_exception_comes_out_in_its_turn(paths: list[Path]) -> None:
    def work(image: Image.Image) -> int:
        if image.width == 8 + 4:
            raise RuntimeError("the fifth")
        return image.width

    results = map_pictures(work, paths, LIMIT, THREADS)
    assert [next(results) for _ in range(4)] == [8, 9, 10, 11]
    with pytest.raises(RuntimeError, match="the fifth"):
        next(results)
