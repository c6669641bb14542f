"""Pictures of requests are read to the same pixel values in bounded memory."""

import base64
import io
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from imagecap.errors import ImageCapError
from imagecap.serve.pictures import PictureReader
from imagecap.serve.request import Limits
from imagecap.serve.scheduler import Scheduler
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


def encoded(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=0)
    return base64.b64encode(content.getvalue()).decode()


def test_small_and_large_pictures_have_the_pixel_values_of_the_model(model: "ImageCaptioner") -> None:
    reader = PictureReader(Limits())
    for size in ((40, 30), (2000, 1100), (1100, 2300)):
        image = picture(3, size)
        assert torch.equal(reader.read(encoded(image), "row 1 of 1", Scheduler(model)), model.preprocess([image])[0])


def test_a_damaged_large_picture_is_refused(model: "ImageCaptioner") -> None:
    text = encoded(picture(3, (2000, 1100)))
    with pytest.raises(ImageCapError, match="row 1 of 1, image: the picture is truncated or damaged"):
        PictureReader(Limits()).read(text[: len(text) // 8 * 4], "row 1 of 1", Scheduler(model))


def test_pictures_together_have_few_pixels(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads with large pictures follow one another; a small picture does not wait for them."""
    monkeypatch.setattr("imagecap.serve.pictures._ROOM_BESIDE", 5000)
    reader = PictureReader(Limits(max_image_pixels=40_000))
    preprocess, lock = model.preprocess, threading.Lock()
    now, most, ended = [0], [0], []

    def slow(images: Any) -> Any:
        (image,) = images
        pixels = image.width * image.height
        with lock:
            now[0] += pixels
            most[0] = max(most[0], now[0])
        time.sleep(0.05 if pixels > 5000 else 0)
        with lock:
            now[0] -= pixels
            ended.append(pixels)
        return preprocess(images)

    monkeypatch.setattr(model, "preprocess", slow)
    scheduler = Scheduler(model)
    texts = [encoded(picture(seed, (200, 200))) for seed in range(6)] + [encoded(picture(7, (50, 50)))]
    threads = [threading.Thread(target=reader.read, args=(text, "row 1 of 1", scheduler)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 7
    assert most[0] <= 45_000
    assert ended[-1] == 40_000
