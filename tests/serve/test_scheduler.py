"""The scheduler: requests of many threads are decoded together, and each gets the captions it would get alone."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.continuous_batch import ContinuousBatch
from imagecap.generate.prompts import tokenize_prompt
from imagecap.serve import waiting as waiting_module
from imagecap.serve.scheduler import Scheduler
from imagecap.serve.waiting import PictureJob, WaitingPictures
from tests.generate.conftest import sharpened
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PICTURES = [picture(seed, (32, 32)) for seed in range(12)]
GREEDY = GenerateSettings(max_length=12)
KINDS = {
    "greedy": GREEDY,
    "short": GenerateSettings(max_length=3),
    "penalty": GenerateSettings(max_length=12, repetition_penalty=1.5, min_length=4, no_repeat_ngram_size=2),
    "sampled": GenerateSettings(max_length=12, temperature=0.8, top_k=20, top_p=0.9, sample_seed=3),
    "samples": GenerateSettings(max_length=12, temperature=0.8, num_captions=3),
    "beams": GenerateSettings(max_length=12, num_beams=3, num_captions=2),
    "started": GenerateSettings(max_length=12, caption_start="a red"),
}


@pytest.fixture
def model(tiny_model: "ImageCaptioner") -> "ImageCaptioner":
    return sharpened(tiny_model)


def run_together(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Run tasks in threads that start at the same moment; returns their results or the exceptions they raised."""
    results: list[Any] = [None] * len(tasks)
    barrier = threading.Barrier(len(tasks))

    def run(place: int) -> None:
        barrier.wait()
        try:
            results[place] = tasks[place]()
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a request got no answer"
    return results


def wait_for_pictures(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make the decoding thread wait until `count` pictures are queued, so that they share a batch on any machine."""
    collect = WaitingPictures.collect
    began = threading.Event()

    def collect_all(waiting: WaitingPictures, *, wait: bool) -> None:
        collect(waiting, wait=wait)
        while not began.is_set() and len(waiting) < count:
            collect(waiting, wait=True)
        began.set()

    monkeypatch.setattr(WaitingPictures, "collect", collect_all)


def test_each_request_gets_the_captions_it_would_get_alone(model: "ImageCaptioner") -> None:
    asked = [
        (kind, prompt, PICTURES[start : start + 2])
        for start, (kind, prompt) in enumerate(
            (kind, prompt) for kind in KINDS for prompt in ("Describe this image.", "描述")
        )
        if start < 11
    ] * 2
    expected = [caption(model, pictures, prompt, KINDS[kind]) for kind, prompt, pictures in asked]
    scheduler = Scheduler(model)
    for _ in range(3):
        tasks = [
            lambda kind=kind, prompt=prompt, pictures=pictures: scheduler.caption(pictures, prompt, KINDS[kind])[0]
            for kind, prompt, pictures in asked
        ]
        for found, wanted in zip(run_together(tasks), expected, strict=True):
            assert not isinstance(found, BaseException), found
            assert [each.token_ids for each in found] == [each.token_ids for each in wanted]
            assert [each.text for each in found] == [each.text for each in wanted]
            assert [each.score for each in found] == pytest.approx([each.score for each in wanted], abs=1e-4)
            assert [len(each.others) for each in found] == [len(each.others) for each in wanted]


def test_requests_at_the_same_time_share_steps(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    step = ContinuousBatch.step

    def counted(batch: ContinuousBatch) -> Any:
        sizes.append(len(batch.rows))
        return step(batch)

    monkeypatch.setattr(ContinuousBatch, "step", counted)
    wait_for_pictures(monkeypatch, len(PICTURES))
    scheduler = Scheduler(model, max_rows=4)
    tasks = [lambda each=each: scheduler.caption([each], "a", GREEDY)[0] for each in PICTURES]
    run_together(tasks)
    assert max(sizes) == 4, "the batch is filled up to max_rows"


def test_a_prefill_is_delayed_for_more_pictures_but_not_long(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "GATHER_SECONDS", 3600)
    waiting = WaitingPictures(continuous=True)

    def queue(count: int) -> list[PictureJob]:
        prompt = tokenize_prompt(model, "a", GREEDY)
        jobs = [PictureJob(model.preprocess([each])[0], prompt, GREEDY) for each in PICTURES[:count]]
        for job in jobs:
            waiting.put(job)
        waiting.collect(wait=False)
        return jobs

    jobs = queue(1)
    assert waiting.take_joining(running=0, room=32) == jobs, "no delay if no row is running"
    jobs = queue(3)
    assert waiting.take_joining(running=1, room=31) == jobs, "no delay if at least as many are new as are running"
    jobs = queue(2)
    assert waiting.take_joining(running=4, room=28) == [], "delayed, since more may arrive"
    jobs += queue(1)
    jobs[0].queued_at -= 3600
    assert waiting.take_joining(running=4, room=28) == jobs, "no delay once the oldest has waited GATHER_SECONDS"
    assert len(waiting) == 0


def test_pictures_of_one_separate_batch_have_the_same_settings_and_prompt_shape(model: "ImageCaptioner") -> None:
    waiting = WaitingPictures(continuous=True)
    pixels = model.preprocess(PICTURES[:1])[0]
    kinds = [("beams", "a"), ("greedy", "a"), ("samples", "a"), ("beams", "Describe this image."), ("beams", "b")]
    jobs = [PictureJob(pixels, tokenize_prompt(model, text, KINDS[kind]), KINDS[kind]) for kind, text in kinds]
    for job in jobs:
        waiting.put(job)
    waiting.collect(wait=True)
    assert waiting.take_separate(1) == [jobs[0]]
    assert waiting.take_separate(32) == [jobs[2]]
    assert waiting.take_separate(32) == [jobs[3]]
    assert waiting.take_separate(32) == [jobs[4]]
    assert waiting.take_separate(32) == []
    assert waiting.take_joining(running=0, room=32) == [jobs[1]]


@pytest.mark.parametrize("where", ["preprocess", "encode_images"])
def test_a_failed_request_does_not_affect_the_next_one(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    expected = caption(model, PICTURES[:1], "a", GREEDY)[0].token_ids
    scheduler = Scheduler(model)
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0][0].token_ids == expected
    with monkeypatch.context() as broken:
        broken.setattr(model, where, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scheduler.caption(PICTURES[1:2], "a", GREEDY)
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0][0].token_ids == expected


def test_a_failed_step_fails_its_requests_and_later_ones_are_answered(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(model)
    with monkeypatch.context() as broken:
        broken.setattr(ContinuousBatch, "step", lambda _: 1 / 0)
        found = run_together([lambda each=each: scheduler.caption([each], "a", GREEDY) for each in PICTURES[:3]])
    assert [type(each) for each in found] == [ZeroDivisionError] * 3
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0]


@pytest.mark.parametrize(
    "where",
    ["imagecap.generate.written_out_decoder.WrittenOutDecoder.step", "imagecap.serve.scheduler.caption_text"],
)
def test_a_request_that_ends_in_a_failing_step_fails_too(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A row whose caption has ended is no longer in the batch when the rest of the step fails."""
    scheduler = Scheduler(model)
    wait_for_pictures(monkeypatch, 3)
    with monkeypatch.context() as broken:
        broken.setattr(where, lambda *_: 1 / 0)
        tasks = [
            lambda each=each, length=length: scheduler.caption(
                [each], "a", GREEDY.model_copy(update={"max_length": length})
            )
            for each, length in ((PICTURES[0], 1), (PICTURES[1], 12), (PICTURES[2], 1))
        ]
        found = run_together(tasks)
    assert [type(each) for each in found] == [ZeroDivisionError] * 3
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0]


def test_without_continuous_batching_pictures_are_decoded_separately(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecap.serve.scheduler.supports_continuous_batching", lambda _: False)
    expected = [each.token_ids for each in caption(model, PICTURES, "a", GREEDY)]
    scheduler = Scheduler(model)
    found = run_together([lambda each=each: scheduler.caption([each], "a", GREEDY)[0] for each in PICTURES])
    assert [each[0].token_ids for each in found] == expected


def test_requests_without_prompt_or_with_too_many_tokens_are_refused(model: "ImageCaptioner") -> None:
    with pytest.raises(ImageCapError, match="none is saved with the model"):
        Scheduler(model).caption(PICTURES[:1], None, GREEDY)
    model.language_model.config.max_position_embeddings = 20
    with pytest.raises(ImageCapError, match="20 positions"):
        Scheduler(model).caption(PICTURES[:1], "a", GREEDY)


def test_a_row_without_a_possible_token_does_not_affect_the_others(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one batch: one draws from scores that are not numbers, in the others nothing changes."""
    impossible = KINDS["sampled"].model_copy(update={"temperature": 1e-42})
    asked = [KINDS["sampled"], impossible, GREEDY, impossible, KINDS["penalty"]]
    expected = [caption(model, [PICTURES[place]], "a", asked[place])[0].token_ids for place in (0, 2, 4)]
    wait_for_pictures(monkeypatch, len(asked))
    scheduler = Scheduler(model)
    found = run_together(
        [
            lambda place=place, settings=settings: scheduler.caption([PICTURES[place]], "a", settings)[0][0]
            for place, settings in enumerate(asked)
        ]
    )
    assert [found[place].token_ids for place in (0, 2, 4)] == expected
    assert [each.error is None for each in found] == [True, False, True, False, True]
    many = impossible.model_copy(update={"num_captions": 2})
    assert scheduler.caption(PICTURES[:1], "a", many)[0][0].error
