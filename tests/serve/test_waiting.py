"""Which of the waiting pictures are decoded next."""

from typing import TYPE_CHECKING

import pytest

from imagecap.config import GenerateSettings
from imagecap.serve import waiting as waiting_module
from imagecap.serve.waiting import WaitingPictures
from tests.serve.jobs import job, many, queue

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


def test_a_prefill_is_delayed_for_more_pictures_but_not_long(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "GATHER_SECONDS", 3600)
    waiting = WaitingPictures(continuous=True, max_rows=32)
    running = [job(model) for _ in range(7)]
    jobs = queue(waiting, [job(model)])
    assert waiting.take_joining([]) == jobs, "no delay if no row is running"
    jobs = queue(waiting, [job(model) for _ in range(3)])
    assert waiting.take_joining(running[:6]) == jobs, "no delay if at least half as many are new as are running"
    jobs = queue(waiting, [job(model) for _ in range(2)])
    assert waiting.take_joining(running) == [], "delayed, since more may arrive"
    jobs += queue(waiting, [job(model)])
    jobs[0].queued_at -= 3600
    assert waiting.take_joining(running) == jobs, "no delay once the oldest has waited GATHER_SECONDS"
    assert len(waiting) == 0


def test_small_requests_come_first_and_have_rows_of_their_own(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "GATHER_SECONDS", 0)
    waiting = WaitingPictures(continuous=True, max_rows=16)
    large = queue(waiting, many(model, 30))
    assert waiting.take_joining([]) == large[:12], "a quarter of the rows is kept"
    small = queue(waiting, [job(model) for _ in range(2)])
    assert waiting.take_joining(large[:12]) == small
    assert waiting.take_joining([*large[:6], *small]) == large[12:18], "rows that are free again"
    others = queue(waiting, [job(model) for _ in range(3)])
    taken = waiting.take_joining([])
    assert taken == sorted([*large[18:], *others], key=lambda each: each.in_line)[: len(taken)]
    assert set(others) < set(taken)


def test_pictures_of_one_separate_batch_have_the_same_settings_and_prompt_shape(model: "ImageCaptioner") -> None:
    waiting = WaitingPictures(continuous=True, max_rows=32)
    kinds = [("beams", "a"), ("greedy", "a"), ("samples", "a"), ("beams", "Describe this image."), ("beams", "b")]
    jobs = queue(waiting, [job(model, kind, text) for kind, text in kinds])
    assert waiting.take_separate([], shared=False) == [jobs[0], jobs[4]]
    assert waiting.take_separate([[jobs[0], jobs[4]]], shared=False) == [jobs[2]]
    assert waiting.take_separate([[jobs[0], jobs[4]], [jobs[2]]], shared=False) == [], "two batches of small requests"
    assert waiting.take_separate([[jobs[2]]], shared=False) == [jobs[3]]
    assert waiting.take_joining([]) == [jobs[1]]


def test_large_requests_take_turns_of_few_pictures_if_others_wait(model: "ImageCaptioner") -> None:
    waiting = WaitingPictures(continuous=True, max_rows=32)
    beams = GenerateSettings(num_beams=5)
    large = queue(waiting, many(model, 64, beams))
    first = waiting.take_separate([], shared=False)
    assert first == large[:32], "nobody else is there"
    assert waiting.take_separate([first], shared=False) == [], "one batch of a request at a time"
    (small,) = queue(waiting, [job(model, "beams")])
    assert waiting.take_separate([first], shared=False) == [small]
    assert waiting.take_separate([[small]], shared=False) == large[32:38], "32 beams"
    assert waiting.take_separate([[small]], shared=True) == large[38:44]
    (long,) = queue(waiting, many(model, 1, GenerateSettings(num_beams=32, max_length=400)))
    assert waiting.take_separate([[small], [small], first], shared=True) == [long]
