"""What is trained on and in which order."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from imagecap.config import TrainSettings
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.plan import Plan
from tests.train.conftest import MakeSamples


def test_every_picture_once_an_epoch_in_another_order(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    settings = TrainSettings(batch_size=3, gradient_accumulation_steps=2)
    plan = Plan(tiny_model, make_samples(11), settings)
    assert plan.steps_per_epoch() == 2
    orders = []
    for epoch in range(3):
        steps = list(plan.epoch(epoch))
        assert [len(part) for step in steps for part in step.micro] == [3, 3, 3, 2]
        assert sum(step.captions for step in steps) == plan.captions
        orders.append([picture for step in steps for picture in step.pictures])
        assert sorted(orders[-1]) == list(range(11))
        assert list(plan.epoch(epoch, 1)) == steps[1:]
    assert orders[0] != orders[1] != orders[2]
    other = Plan(tiny_model, plan.samples, settings.model_copy(update={"train_seed": 1}))
    assert [picture for step in other.epoch(0) for picture in step.pictures] != orders[0]


def test_captions_are_drawn_anew_each_epoch(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    plan = Plan(tiny_model, make_samples(4, captions=5), TrainSettings(captions_per_image=2))
    drawn = [
        {picture: chosen for step in plan.epoch(e) for part in step.micro for picture, chosen in part} for e in (0, 1)
    ]
    assert all(len(set(chosen)) == 2 for epoch in drawn for chosen in epoch.values())
    assert drawn[0] != drawn[1]
    assert plan.captions_per_epoch == 8
    step = next(plan.epoch(0))
    branches = plan.branches(step.micro[0])
    assert [len(row) for row in branches] == [2] * 4
    assert plan.weight(step, branches) == sum(len(branch.caption) for row in branches for branch in row)


def test_the_order_of_the_data_does_not_matter(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    samples, settings = make_samples(11), TrainSettings(batch_size=3)
    digests = [
        [[plan.samples[picture].digest for picture in step.pictures] for step in plan.epoch(0)]
        for plan in (Plan(tiny_model, each, settings) for each in (samples, samples[::-1]))
    ]
    assert digests[0] == digests[1]


def test_captions_are_tokenized_as_one_by_one(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    plan = Plan(tiny_model, make_samples(5, captions=3), TrainSettings(max_caption_tokens=6))
    for picture, row in enumerate(plan.branches(plan.all_captions(range(5)))):
        for branch, caption in zip(row, plan.samples[picture].captions, strict=True):
            assert list(branch.caption) == tiny_model.caption_ids(caption.text, 6)
            assert list(branch.prompt) == tiny_model.prompt_ids(caption.prompt).after


def test_another_number_of_processes_cuts_the_same_steps_anew(
    tiny_model: ImageCaptioner, make_samples: MakeSamples
) -> None:
    settings = TrainSettings(batch_size=2, gradient_accumulation_steps=2)
    before = Plan(tiny_model, make_samples(11), settings, processes=2)
    assert before.step_pictures == 8
    for processes, sizes in ((1, [[2, 2, 2, 2], [2, 1]]), (2, [[4, 4], [3]]), (3, [[6, 2], [3]]), (5, [[8], [3]])):
        plan = Plan(tiny_model, before.samples, settings, processes)
        plan.step_pictures = before.step_pictures
        assert plan.steps_per_epoch() == before.steps_per_epoch() == 2
        steps = list(plan.epoch(1))
        assert [[len(part) for part in step.micro] for step in steps] == sizes
        assert [step.pictures for step in steps] == [step.pictures for step in before.epoch(1)]
        assert list(plan.epoch(1, 1)) == steps[1:]


def test_the_longest_row_of_many_pictures(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    (sample,) = make_samples(1)
    many = [replace(sample, digest=f"{number:064x}") for number in range(600)]
    captions = tuple(replace(caption, text=f"{caption.text} by a tree") for caption in sample.captions)
    many[400] = replace(many[400], captions=captions)
    plan = Plan(tiny_model, many, TrainSettings())
    (longest,) = plan.branches(plan.all_captions([400]))
    assert plan.longest_row == sorted(longest, key=lambda branch: -len(branch.caption))
    assert plan.longest == plan.prefix + max(len(each.prompt) + len(each.caption) - 1 for each in longest)


def test_a_caption_that_cannot_be_spelled_is_found_before_the_training(
    tiny_model: ImageCaptioner, make_samples: MakeSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spell(_: ImageCaptioner, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        if any("<|im_end|>" in text for text in texts):
            raise ImageCapError("remove it")
        return [[1]] * len(texts)

    monkeypatch.setattr(ImageCaptioner, "captions_ids", spell)
    samples = make_samples(3)
    last = replace(samples[2].captions[1], text="A dog <|im_end|>.")
    samples[2] = replace(samples[2], captions=(samples[2].captions[0], last))
    Plan(tiny_model, samples[:2], TrainSettings())
    with pytest.raises(ImageCapError, match=f"{samples[2].image}: remove it"):
        Plan(tiny_model, samples, TrainSettings())


def test_a_special_token_in_a_prompt_is_refused_with_its_picture(
    tiny_model: ImageCaptioner, make_samples: MakeSamples
) -> None:
    (sample,) = make_samples(1)
    caption = replace(sample.captions[0], prompt="Describe.<|im_end|>")
    with pytest.raises(ImageCapError, match=rf"{sample.image}: the prompt .* holds <\|im_end\|>, a special token"):
        Plan(tiny_model, [replace(sample, captions=(caption,))], TrainSettings())
