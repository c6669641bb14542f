"""Turns of the decoding thread: time is shared, and what nobody waits for is gone within two steps."""

from typing import TYPE_CHECKING, Any

import pytest
import torch

from imagecap.config import GenerateSettings
from imagecap.generate.caption_batch import CaptionBatch
from imagecap.generate.captioner import caption
from imagecap.generate.continuous_batch import ContinuousBatch
from imagecap.generate.prompts import tokenize_prompt
from imagecap.serve import decoding
from imagecap.serve.waiting import CaptionRequest, RequestEnded, WaitingPictures
from tests.serve.jobs import GREEDY, KINDS, PICTURES, job, queue

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@pytest.mark.parametrize("kind", ["greedy", "beams", "samples"])
def test_a_request_whose_time_is_over_is_gone_within_two_steps(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model.llava.generation_config.eos_token_id = model.image_token_id  # never generated
    settings = KINDS[kind].model_copy(update={"max_length": 400})
    now = [100.0]
    monkeypatch.setattr(decoding.time, "monotonic", lambda: now[0])
    waiting = WaitingPictures(continuous=True, max_rows=32)
    requests = [
        CaptionRequest(tokenize_prompt(model, "a", each), each, deadline=deadline)
        for each, deadline in ((settings, 200.0), (KINDS[kind], 1000.0))
    ]
    jobs = queue(waiting, [job(model, request=request) for request in requests])
    loop = decoding.DecodingLoop(model, waiting)
    with torch.inference_mode():
        for _ in range(6):
            loop.turn()
        assert not jobs[0].done.is_set()
        now[0] = 200.0
        loop.turn()
        assert isinstance(jobs[0].error, RequestEnded)
        for _ in range(30):
            loop.turn()
    expected = caption(model, PICTURES[:1], "a", KINDS[kind])[0]
    assert jobs[1].caption is not None
    assert jobs[1].caption.token_ids == expected.token_ids
    assert loop.idle


def test_time_is_shared_by_requests(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    """Three greedy requests and one search, whose turns all take a second: three turns to one."""
    model.llava.generation_config.eos_token_id = model.image_token_id  # never generated
    now = [0.0]
    turns = []

    def step(name: str, original: Any) -> Any:
        def counted(batch: Any) -> Any:
            turns.append(name)
            now[0] += 1
            return original(batch)

        return counted

    monkeypatch.setattr(decoding.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ContinuousBatch, "step", step("shared", ContinuousBatch.step))
    monkeypatch.setattr(CaptionBatch, "step", step("separate", CaptionBatch.step))
    waiting = WaitingPictures(continuous=True, max_rows=32)
    settings = [GREEDY.model_copy(update={"max_length": 200})] * 3 + [GenerateSettings(max_length=200, num_beams=3)]
    queue(
        waiting,
        [job(model, request=CaptionRequest(tokenize_prompt(model, "a", each), each)) for each in settings],
    )
    loop = decoding.DecodingLoop(model, waiting)
    with torch.inference_mode():
        for _ in range(80):
            loop.turn()
    assert turns.count("separate") == pytest.approx(20, abs=1)
