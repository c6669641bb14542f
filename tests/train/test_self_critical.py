"""Learning from its own captions: what they are worth, and that the step is the plain policy gradient."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagecap.config import ModelSettings, TrainSettings, parse_settings
from imagecap.data.images import load_image
from imagecap.errors import ImageCapError
from imagecap.metrics import Cider
from imagecap.model.builder import build
from imagecap.model.tiles.tiled import Pixels
from imagecap.train.loader import Loader
from imagecap.train.packing import Branch
from imagecap.train.plan import Plan, Step
from imagecap.train.schedule import Phases
from imagecap.train.self_critical import SelfCritical
from imagecap.train.step import TrainStep
from tests.generate.conftest import sharpened
from tests.train.conftest import MakeSamples
from tests.train.helpers import assert_close, gradients, history, plain_losses, run, stopped_and_resumed


@pytest.mark.parametrize(
    ("frozen", "accumulated", "encoded"),
    [(True, True, 1), (False, True, 2), (False, False, 1)],
    ids=["frozen", "trained", "trained, one micro-batch"],
)
def test_step_is_the_gradient_of_the_expected_reward(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    monkeypatch: pytest.MonkeyPatch,
    frozen: bool,
    accumulated: bool,
    encoded: int,
) -> None:
    # these weights say nothing that scores
    monkeypatch.setattr(Cider, "score", lambda _, images, texts: np.array([*map(worth_of, images, texts)]))
    model = build(tiny_bases.model_copy(update={"freeze_vision_model": frozen}))
    model.llava.double().eval()
    # six tokens: these weights say anything, and stock LLaVA cannot read a caption that holds the image token
    settings = TrainSettings(cider_epochs=1, cider_beams=3, token_dropout=0.5, max_caption_tokens=6)
    plan = Plan(model, make_samples(4), settings)
    samples = list(plan.samples)
    bilingual = [picture for picture, sample in enumerate(samples) if len(sample.captions) == 4]
    english = [picture for picture, sample in enumerate(samples) if len(sample.captions) == 3]
    train_step, loader = TrainStep(model, torch.float32), Loader(model, plan, None, 10_000_000)
    critic = SelfCritical(train_step, plan)
    said: list[list[str]] = [[] for _ in samples]
    first = [(bilingual[0], [0, 1, 2, 3]), (english[0], [0, 1, 2])]
    second = [(bilingual[1], [0, 1, 2, 3]), (english[1], [0])]
    step = Step([first, second] if accumulated else [first + second])
    parts = [loader.micro_batch(part, [1] * len(part)) for part in step.micro]
    encode = train_step.encode
    sizes: list[int] = []

    def counting(pixels: Pixels) -> Pixels:
        sizes.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(train_step, "encode", counting)
    micro_steps, weight, reward = critic.step(step, parts)
    assert weight == 3 * (2 + 1 + 2 + 1), "three beams of every language of every picture"
    for micro in micro_steps:
        train_step.loss(micro, 1 / weight).backward()
    found = gradients(model)
    assert sum(sizes) == encoded * 4, "four pictures"

    expected, rewards = torch.zeros((), dtype=torch.float64), []
    for micro in micro_steps:
        captions: list[list[int]] = [[] for _ in range(int(micro.rows.label_captions.max()) + 1)]
        for owner, label in zip(micro.rows.label_captions.tolist(), micro.rows.labels.tolist(), strict=True):
            captions[owner].append(label)
        for picture in micro.pictures:
            image = load_image(samples[picture].path, 10_000_000)
            languages = ["en"] if picture in english else ["en", "zh"]
            for language in languages:
                prompt = tuple(model.prompt_ids(prompts(samples)[language]).after)
                ids, captions = captions[:3], captions[3:]
                texts = [model.tokenizer.decode(each, skip_special_tokens=True).strip() for each in ids]
                said[picture] += texts
                place = picture if language == "en" else bilingual.index(picture)
                worth = [worth_of(place, text) for text in texts]
                rewards += worth
                rows = [Branch(prompt, tuple(each)) for each in ids]
                for number, losses in enumerate(plain_losses(model, [image], [rows])):
                    others = (sum(worth) - worth[number]) / 2
                    expected = expected + losses.sum() * (worth[number] - others) / weight
    expected.backward()
    assert reward == pytest.approx(sum(rewards) / weight, abs=1e-6)
    theirs = gradients(model)
    assert max(float(gradient.abs().max()) for gradient in theirs.values()) > 1e-4
    assert_close(found, theirs, 1e-6)  # pixels are float32
    assert len({text for texts in said for text in texts}) > 6, "beams differ"


def prompts(samples: list[Any]) -> dict[str, str]:
    return {caption.language: caption.prompt for sample in samples for caption in sample.captions}


def worth_of(image: int, text: str) -> float:
    return zlib.crc32(f"{image} {text}".encode()) % 1000 / 1000


def test_beams_depend_on_the_picture_only(tiny_bases: ModelSettings, make_samples: MakeSamples) -> None:
    model = sharpened(build(tiny_bases))  # what it says depends on the picture
    plan = Plan(model, make_samples(3), TrainSettings(cider_epochs=1))
    loader = Loader(model, plan, None, 10_000_000)
    critic = SelfCritical(TrainStep(model, torch.float32), plan)

    def said(pictures: list[int]) -> list[list[int]]:
        part = [(picture, [0]) for picture in pictures]
        [micro], _, _ = critic.step(Step([part]), [loader.micro_batch(part, [4] * len(part))])
        rows = micro.rows
        return [rows.labels[rows.label_positions // rows.ids.shape[1] == row].tolist() for row in range(len(pictures))]

    assert said([0, 1, 2]) == [*said([0]), *said([1]), *said([2])]
    # the last one alone has captions in two languages: its features are not the first of the batch
    assert said([1, 2, 0]) == [*said([1]), *said([2]), *said([0])]
    assert said([1]) != said([2])


def test_reward_rises(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path) -> None:
    model = build(tiny_bases.model_copy(update={"freeze_vision_model": False}))
    changes: dict[str, Any] = {"language_model_learning_rate": 3e-3, "vision_model_learning_rate": 1e-3}
    run(tmp_path, model, make_samples(6), num_epochs=60, cider_epochs=20, cider_rate=0.3, train_seed=1, **changes)
    losses = [entry["train_loss"] for entry in history(tmp_path) if "train_loss" in entry]
    first, last = -sum(losses[40:45]) / 5, -sum(losses[-5:]) / 5
    assert last > 1.1 * first > 0, "the mean CIDEr of beams, negative, is the loss of these epochs"


def test_going_on_in_the_middle_equals_an_uninterrupted_run(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    stopped_and_resumed(tiny_bases, make_samples, tmp_path, cider_epochs=2, best_by="CIDEr")


def test_the_stage_has_a_schedule_of_its_own(tiny_bases: ModelSettings) -> None:
    settings = TrainSettings(num_epochs=6, projector_epochs=1, cider_epochs=2, cider_rate=0.25, warmup_ratio=0)
    phases = Phases(settings, {}, steps_per_epoch=10)
    assert [phases.learning_rate_factor(step) for step in (0, 10, 40)] == [1, 1, 0.25]
    assert max(phases.learning_rate_factor(step) for step in (9, 39, 59)) < 0.1
    assert [phases.is_self_critical(step) for step in (0, 39, 40, 59)] == [False, False, True, True]
    assert not Phases(TrainSettings(), {}, 10).is_self_critical(29)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cider_epochs": 4, "num_epochs": 3}, "raise num_epochs"),
        ({"cider_epochs": 2, "projector_epochs": 2, "num_epochs": 3}, "raise num_epochs"),
        ({"cider_epochs": 1, "best_by": "val_loss"}, "set best_by to CIDEr"),
        ({"cider_beams": 1}, "cider_beams"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageCapError, match=message):
        parse_settings({"train": changes}, "params.yaml")
