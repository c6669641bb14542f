"""The scheduler: requests of many threads are decoded together, and each gets the captions it would get alone."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.continuous_batch import ContinuousBatch
from imagecap.serve import decoding
from imagecap.serve.monitoring import Monitor
from imagecap.serve.scheduler import Scheduler
from imagecap.serve.waiting import RequestEnded, WaitingPictures, Watch
from tests.serve.jobs import GREEDY, KINDS, PICTURES

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."


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


def test_pictures_of_a_failed_batch_are_decoded_again_alone(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [each.token_ids for each in caption(model, PICTURES[:3], "a", GREEDY)]
    scheduler = Scheduler(model)
    monkeypatch.setattr(ContinuousBatch, "step", lambda _: 1 / 0)
    found = run_together([lambda each=each: scheduler.caption([each], "a", GREEDY) for each in PICTURES[:3]])
    assert [made[0][0].token_ids for made in found] == expected


@pytest.mark.parametrize("kind", ["greedy", "beams", "samples"])
def test_a_failing_picture_fails_its_request_only(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings = KINDS[kind]
    expected = [each.token_ids for each in caption(model, PICTURES[:5], "a", settings)]
    poison = model.preprocess(PICTURES[2:3])[0]
    encode = model.encode_images

    def fail(pixels: torch.Tensor) -> torch.Tensor:
        if any(torch.equal(each, poison) for each in pixels):
            raise RuntimeError("poison")
        return encode(pixels)

    monkeypatch.setattr(model, "encode_images", fail)
    wait_for_pictures(monkeypatch, 5)
    scheduler = Scheduler(model)
    found = run_together([lambda each=each: scheduler.caption([each], "a", settings)[0] for each in PICTURES[:5]])
    assert isinstance(found.pop(2), RuntimeError)
    assert [each[0].token_ids for each in found] == expected[:2] + expected[3:]


def test_a_request_whose_text_cannot_be_decoded_fails(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(model)
    with monkeypatch.context() as broken:
        broken.setattr("imagecap.serve.batches.decoded_caption", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scheduler.caption(PICTURES[:1], "a", GREEDY)
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0]


def test_a_request_stops_at_its_deadline_and_takes_no_more_pictures(model: "ImageCaptioner") -> None:
    scheduler = Scheduler(model)
    taken = []

    def pixels() -> Iterator[torch.Tensor]:
        for each in PICTURES:
            taken.append(each)
            yield scheduler.preprocess(each)

    with pytest.raises(RequestEnded):
        scheduler.caption_pixels(pixels(), 12, "a", GREEDY, deadline=time.monotonic())
    assert len(taken) == 1
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0], "and the next one is answered"


def test_pictures_are_made_as_they_are_decoded(model: "ImageCaptioner") -> None:
    class Begun(Monitor):
        pictures = 0

        def observe_first_token(self, seconds: float) -> None:
            self.pictures += 1

    begun, rows, most = Begun(), 2, 0
    scheduler = Scheduler(model, max_rows=rows, monitor=begun)

    def pixels() -> Iterator[torch.Tensor]:
        nonlocal most
        for made in range(60):
            most = max(most, made - begun.pictures)
            yield scheduler.preprocess(PICTURES[0])

    captions, _ = scheduler.caption_pixels(pixels(), 60, "a", GREEDY)
    assert len(captions) == 60
    assert most <= 17 + rows, "and those whose first token is generated just now"


def test_a_long_search_does_not_keep_others_waiting(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    """Short requests of all kinds that come after a long search are answered before it."""
    model.llava.generation_config.eos_token_id = model.image_token_id  # never generated: captions take all their tokens
    ended: list[str] = []
    scheduler = Scheduler(model)
    long = GenerateSettings(max_length=300, num_beams=8)

    def ask(name: str, settings: GenerateSettings) -> None:
        assert scheduler.caption(PICTURES[:1], "a", settings)[0][0].error is None
        ended.append(name)

    search = threading.Thread(target=ask, args=("long", long))
    search.start()
    run_together([lambda kind=kind: ask(kind, KINDS[kind]) for kind in KINDS])
    search.join()
    assert ended[-1] == "long"


def test_the_end_of_the_decoding_thread_ends_all_requests(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[BaseException] = []
    scheduler = Scheduler(model, on_death=deaths.append)
    with monkeypatch.context() as broken:
        broken.setattr(decoding.DecodingLoop, "turn", lambda _: 1 / 0)
        found = run_together([lambda: scheduler.caption(PICTURES[:2], "a", GREEDY)] * 3)
    assert [type(each) for each in found] == [ZeroDivisionError] * 3
    assert deaths
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


def test_tokens_can_be_watched_and_a_request_cancelled(model: "ImageCaptioner") -> None:
    scheduler, seen = Scheduler(model), []
    pixels = scheduler.preprocess(PICTURES[0])
    watch = Watch(lambda place, tokens: seen.append((place, tokens)))
    made, _ = scheduler.caption_pixels([pixels], 1, PROMPT, GREEDY, watch=watch)
    assert seen == [(0, made[0].token_ids[: count + 1]) for count in range(len(made[0].token_ids))]

    def stop(_: int, tokens: list[int]) -> None:
        stopping.cancelled = len(tokens) == 2

    stopping = Watch(stop)
    with pytest.raises(RequestEnded):
        scheduler.caption_pixels([pixels], 1, PROMPT, GREEDY, watch=stopping)
    assert scheduler.caption_pixels([pixels], 1, PROMPT, GREEDY)[0] == made
    scheduler.close()


def test_a_call_runs_between_two_tokens(model: "ImageCaptioner") -> None:
    """It runs in the decoding thread, returns or raises to its caller, and harms no caption."""
    scheduler = Scheduler(model)
    pixels = scheduler.preprocess(PICTURES[0])
    alone = scheduler.caption_pixels([pixels], 1, PROMPT, GREEDY)[0]

    def name(called: "ImageCaptioner") -> str:
        assert called is model
        return threading.current_thread().name

    def fail(_: "ImageCaptioner") -> None:
        raise ImageCapError("no")

    results = run_together(
        [
            lambda: scheduler.caption_pixels([pixels], 1, PROMPT, GREEDY)[0],
            lambda: scheduler.call(name),
            lambda: scheduler.call(fail),
        ]
    )
    assert results[0] == alone
    assert results[1] == "imagecap-decoding"
    assert isinstance(results[2], ImageCapError)
    scheduler.close()
