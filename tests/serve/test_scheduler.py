"""Many threads, one decoding: everybody gets what they would have got alone, whatever the others ask for."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.continuous_batch import ContinuousBatch
from imagecap.generate.prompts import tokenize_prompt
from imagecap.serve import scheduler as scheduler_module
from imagecap.serve.scheduler import Scheduler, _Job
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


def together(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Results of tasks that start in threads of their own at the same moment."""
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
        assert not thread.is_alive(), "a caller was left waiting"
    return results


def gathered(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the decoding thread begin only when as many pictures are there: whatever the machine does, they meet."""
    take = Scheduler._collect
    began = threading.Event()

    def all_of_them(scheduler: Scheduler, *, wait: bool) -> None:
        if not began.is_set():
            began.set()
            scheduler._pending += [scheduler._waiting.get() for _ in range(count)]
        else:
            take(scheduler, wait=wait)

    monkeypatch.setattr(Scheduler, "_collect", all_of_them)


def test_everybody_gets_their_own(model: "ImageCaptioner") -> None:
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
        for found, wanted in zip(together(tasks), expected, strict=True):
            assert not isinstance(found, BaseException), found
            assert [each.token_ids for each in found] == [each.token_ids for each in wanted]
            assert [each.text for each in found] == [each.text for each in wanted]
            assert [each.score for each in found] == pytest.approx([each.score for each in wanted], abs=1e-4)
            assert [len(each.others) for each in found] == [len(each.others) for each in wanted]


def test_requests_inside_together_share_steps(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    step = ContinuousBatch.step

    def counted(batch: ContinuousBatch) -> Any:
        sizes.append(len(batch.rows))
        return step(batch)

    monkeypatch.setattr(ContinuousBatch, "step", counted)
    gathered(monkeypatch, len(PICTURES))
    scheduler = Scheduler(model, max_rows=4)
    tasks = [lambda each=each: scheduler.caption([each], "a", GREEDY)[0] for each in PICTURES]
    together(tasks)
    assert max(sizes) == 4, "as many as there is room for"


@torch.inference_mode()
def test_a_picture_waits_for_company_but_not_long(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "GATHER_SECONDS", 3600)

    def jobs(count: int) -> list[_Job]:
        prompt = tokenize_prompt(model, "a", GREEDY)
        return [_Job(model.preprocess([each])[0], prompt, GREEDY) for each in PICTURES[:count]]

    scheduler, batch = Scheduler(model), ContinuousBatch(model)
    scheduler._pending = jobs(1)
    assert len(scheduler._join(batch)) == 1, "nobody runs that it could wait with"
    scheduler._pending = jobs(3)
    assert len(scheduler._join(batch)) == 3, "as many as are running: company enough"
    scheduler._pending = jobs(2)
    assert not scheduler._join(batch), "more may come"
    scheduler._pending += jobs(1)
    scheduler._pending[0].queued_at -= 3600
    assert len(scheduler._join(batch)) == 3, "the first has waited long enough"
    assert not scheduler._pending


@pytest.mark.parametrize("where", ["preprocess", "encode_images"])
def test_one_failure_is_not_the_others(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    expected = caption(model, PICTURES[:1], "a", GREEDY)[0].token_ids
    scheduler = Scheduler(model)
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0][0].token_ids == expected
    with monkeypatch.context() as broken:
        broken.setattr(model, where, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scheduler.caption(PICTURES[1:2], "a", GREEDY)
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0][0].token_ids == expected


def test_a_failed_step_is_told_to_all_and_work_goes_on(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(model)
    with monkeypatch.context() as broken:
        broken.setattr(ContinuousBatch, "step", lambda _: 1 / 0)
        found = together([lambda each=each: scheduler.caption([each], "a", GREEDY) for each in PICTURES[:3]])
    assert [type(each) for each in found] == [ZeroDivisionError] * 3
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0]


@pytest.mark.parametrize(
    "where",
    ["imagecap.generate.written_out_decoder.WrittenOutDecoder.step", "imagecap.serve.scheduler.caption_text"],
)
def test_who_ends_in_a_failing_step_is_told_too(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A row that has just left the batch is in it no more when the rest of the step fails."""
    scheduler = Scheduler(model)
    gathered(monkeypatch, 3)
    with monkeypatch.context() as broken:
        broken.setattr(where, lambda *_: 1 / 0)
        tasks = [
            lambda each=each, length=length: scheduler.caption(
                [each], "a", GREEDY.model_copy(update={"max_length": length})
            )
            for each, length in ((PICTURES[0], 1), (PICTURES[1], 12), (PICTURES[2], 1))
        ]
        found = together(tasks)
    assert [type(each) for each in found] == [ZeroDivisionError] * 3
    assert scheduler.caption(PICTURES[:1], "a", GREEDY)[0]


def test_models_that_cannot_share_a_batch_are_decoded_apart(
    model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecap.serve.scheduler.supports_continuous_batching", lambda _: False)
    expected = [each.token_ids for each in caption(model, PICTURES, "a", GREEDY)]
    scheduler = Scheduler(model)
    found = together([lambda each=each: scheduler.caption([each], "a", GREEDY)[0] for each in PICTURES])
    assert [each[0].token_ids for each in found] == expected


def test_what_is_asked_wrongly(model: "ImageCaptioner") -> None:
    with pytest.raises(ImageCapError, match="none is saved with the model"):
        Scheduler(model).caption(PICTURES[:1], None, GREEDY)
    model.language_model.config.max_position_embeddings = 20
    with pytest.raises(ImageCapError, match="20 positions"):
        Scheduler(model).caption(PICTURES[:1], "a", GREEDY)
