"""What the decoding process keeps of requests that have ended: nothing."""

import gc
import threading
from multiprocessing import Pipe
from typing import TYPE_CHECKING

import pytest

from imagecap.serve.decoding_worker import Channel, _caption
from imagecap.serve.messages import Captioned, Close, Ended, NewPicture, NewRequest, packed
from imagecap.serve.scheduler import Scheduler
from imagecap.serve.waiting import CaptionRequest, PictureJob
from tests.serve.jobs import many

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@pytest.mark.parametrize("late", [True, False], ids=["captioned", "given up"])
def test_requests_that_have_ended_take_no_memory(model: "ImageCaptioner", late: bool) -> None:
    (ours, theirs), scheduler = Pipe(), Scheduler(model)
    worker = threading.Thread(target=_caption, args=(theirs, Channel(theirs), scheduler))
    worker.start()
    for number in range(3):
        for job in many(model, 2):
            asked, pixels = job.request, job.pixel_values
            assert pixels is not None
            new = NewRequest(asked.prompt, asked.settings, asked.pictures, asked.deadline)
            place = 2 * number + job.place
            ours.send(NewPicture(place, number, None if job.place else new, job.place, 0.0, packed(pixels)))
        if not late:
            ours.send(Ended(number))
        for _ in range(2):
            assert isinstance(ours.recv(), Captioned)
        if late:
            ours.send(Ended(number))
    ours.send(Close())
    worker.join(20)
    assert not worker.is_alive()
    scheduler.close()
    assert scheduler._thread is not None
    scheduler._thread.join(20)
    del job, asked
    kept = [each for each in gc.get_objects() if isinstance(each, CaptionRequest | PictureJob)]
    assert not kept
