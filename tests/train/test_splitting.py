"""Micro-batches that are split by tokens give the losses and gradients of whole ones, in passes of bounded size."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imagecap.config import ModelSettings, TrainSettings
from imagecap.data.records import Caption, Sample
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.dry_run import estimate_memory
from imagecap.train.feature_cache import FeatureCache
from imagecap.train.feature_store import open_feature_store
from imagecap.train.loader import Loader
from imagecap.train.memory import enable_gradient_checkpointing
from imagecap.train.plan import Plan
from imagecap.train.self_critical import SelfCritical
from imagecap.train.setup import prepare_training
from imagecap.train.splitting import split_by_tokens
from imagecap.train.step import TrainStep
from tests.train.conftest import MakeSamples
from tests.train.helpers import (
    assert_close,
    gradients,
    history,
    run,
    settings_in,
    stopped_and_resumed,
)

pytestmark = pytest.mark.usefixtures("float64_norms")
PIXELS = 10_000_000


@pytest.fixture
def awkward(make_samples: MakeSamples) -> list[Sample]:
    """Five pictures, one of them with long captions in two languages, one with an empty prompt and an empty caption."""
    samples = make_samples(5)
    long = tuple(Caption("a red cat on a mat " * times, "en", "Describe this image.") for times in (4, 5, 3, 4))
    samples[1] = replace(samples[1], captions=(long[0], Caption("一只红色的猫", "zh", "描述这张图片。"), *long[1:]))
    samples[3] = replace(samples[3], captions=(*samples[3].captions, Caption("", "en", ""), Caption("a", "en", "")))
    return samples


def step_of(
    model: ImageCaptioner,
    samples: Sequence[Sample],
    limit: int | None,
    cache: FeatureCache | None = None,
    **changes: Any,
) -> tuple[float, dict[str, Tensor], list[int]]:
    """Loss, gradients and tokens of each pass of the first optimizer step, whose weights are not updated."""
    plan = Plan(model, samples, TrainSettings(**changes))
    step = TrainStep(model, torch.float32, batch_tokens=limit)
    loaded = next(iter(Loader(model, plan, cache, PIXELS).steps(plan.epoch(0))))
    tokens = []
    loss = step.loss

    def counted(batch: Any, scale: float, **others: Any) -> Tensor:
        tokens.append(batch.rows.ids.numel())
        return loss(batch, scale, **others)

    step._loss = counted
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    result = step.step(torch.optim.SGD(weights, lr=0.0), loaded.micro_batches, loaded.weight, 1e9)
    return result.loss, gradients(model), tokens


def assert_equal_steps(model: ImageCaptioner, samples: Sequence[Sample], **changes: Any) -> None:
    model.double()
    loss, expected, whole = step_of(model, samples, None, **changes)
    assert max(whole) > 300
    for limit in (60, 75, 130, 250):
        found, ours, tokens = step_of(model, samples, limit, **changes)
        assert max(tokens) <= limit
        assert len(tokens) > len(whole)
        assert found == pytest.approx(loss, rel=1e-12)
        assert_close(ours, expected, 1e-11)
    assert step_of(model, samples, 10_000, **changes)[2] == whole


@pytest.mark.parametrize("weighting", ["token", "caption", "picture"])
@pytest.mark.parametrize("batch", [{"batch_size": 5}, {"batch_size": 3, "gradient_accumulation_steps": 2}])
def test_every_weighting_and_accumulation(
    tiny_model: ImageCaptioner, awkward: list[Sample], weighting: str, batch: dict[str, int]
) -> None:
    assert_equal_steps(tiny_model, awkward, loss_weighting=weighting, token_dropout=0.3, **batch)


def test_adapters_and_blocks_computed_twice(tiny_bases: ModelSettings, awkward: list[Sample]) -> None:
    model = build(tiny_bases.model_copy(update={"lora_rank": 2}))
    with torch.no_grad():  # those that add nothing have no gradient either
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.1)
    enable_gradient_checkpointing(model)
    assert_equal_steps(model, awkward, batch_size=5)


def test_an_encoder_that_trains(tiny_bases: ModelSettings, awkward: list[Sample]) -> None:
    model = build(tiny_bases.model_copy(update={"freeze_vision_model": False}))
    assert_equal_steps(model, awkward, batch_size=5)


def test_cached_features(tiny_model: ImageCaptioner, awkward: list[Sample], tmp_path: Path) -> None:
    """Some pictures are in the feature cache, and the others are encoded."""
    tiny_model.double()
    settings = settings_in(tmp_path, batch_size=5)
    step = TrainStep(tiny_model, torch.float32)
    store = open_feature_store(step, tmp_path, settings)
    assert store is not None
    plan = Plan(tiny_model, awkward, settings.train)
    for _ in store.open([plan]):
        ...
    loader = Loader(tiny_model, plan, None, PIXELS)
    for picture in (1, 2):
        store.add([plan.samples[picture].digest], step.encode(tiny_model.preprocess([loader.picture(picture)])))
    store.refresh()
    assert len(store.cache) == 2
    loss, expected, _ = step_of(tiny_model, awkward, None, batch_size=5)
    for limit in (60, 130):
        found, ours, tokens = step_of(tiny_model, awkward, limit, store.cache, batch_size=5)
        assert max(tokens) <= limit
        assert found == pytest.approx(loss, rel=1e-12)
        assert_close(ours, expected, 1e-11)


def test_captions_of_the_model_itself(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    """In `cider_epochs` generated captions are split, and each is weighted by its advantage."""
    tiny_model.llava.double().eval()
    samples, found = make_samples(4), []
    for limit in (None, 45, 60):
        settings = TrainSettings(cider_epochs=1, cider_beams=3, max_caption_tokens=6, batch_tokens=limit)
        plan = Plan(tiny_model, samples, settings)
        step = TrainStep(tiny_model, torch.float32, batch_tokens=limit)
        (planned,) = plan.epoch(0)
        loader = Loader(tiny_model, plan, None, PIXELS)
        made, weight, _ = SelfCritical(step, plan).step(planned, [loader.micro_batch(planned.micro[0], planned.passes)])
        made[0].weights.copy_(torch.arange(len(made[0].weights)) - 9)  # these weights say nothing that scores
        passes = split_by_tokens(made[0], limit or 10_000)
        assert max(part.rows.ids.numel() for part in passes) <= (limit or 10_000)
        weights = [each for each in tiny_model.parameters() if each.requires_grad]
        loss = step.step(torch.optim.SGD(weights, lr=0.0), made, weight, 1e9).loss
        found.append((loss, gradients(tiny_model), len(passes)))
    (loss, expected, whole), *others = found
    assert whole == 1
    for other, ours, passes in others:
        assert passes > 3
        assert other == pytest.approx(loss, rel=1e-12)
        assert_close(ours, expected, 1e-11)


def test_a_picture_in_several_passes_is_encoded_and_kept_once(
    tiny_bases: ModelSettings, awkward: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], TrainStep.encode

    def counted(self: TrainStep, pixels: Tensor) -> Tensor:
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(TrainStep, "encode", counted)
    run(tmp_path, build(tiny_bases), awkward, batch_tokens=60)
    assert sum(encoded) == len(awkward)


def test_a_pass_is_a_micro_batch_of_its_own(tiny_model: ImageCaptioner, awkward: list[Sample]) -> None:
    """Its captions are numbered anew, as those of any batch, so that it can be split again."""
    plan = Plan(tiny_model, awkward, TrainSettings(batch_size=5))
    (step,) = plan.epoch(0)
    batch = Loader(tiny_model, plan, None, PIXELS).micro_batch(step.micro[0], step.passes)
    passes = split_by_tokens(batch, 130)
    assert len(passes) > 1
    for part in passes:
        numbers = part.rows.label_captions
        assert numbers.unique().tolist() == list(range(int(numbers[-1]) + 1))
        again = split_by_tokens(part, 60)
        assert sum(len(each.rows.labels) for each in again) == len(part.rows.labels)
        assert max(each.rows.ids.numel() for each in again) <= 60


def test_an_idle_process_computes_one_pass(tiny_model: ImageCaptioner, awkward: list[Sample]) -> None:
    plan = Plan(tiny_model, awkward, TrainSettings(batch_size=5))
    (step,) = plan.epoch(0)
    batch = Loader(tiny_model, plan, None, PIXELS).micro_batch(step.micro[0], step.passes)
    assert len(split_by_tokens(batch, 60)) > 3
    (only,) = split_by_tokens(replace(batch, weights=torch.zeros_like(batch.weights)), 60)
    assert only.rows.ids.numel() <= 60


def test_a_run_with_a_limit(
    tiny_bases: ModelSettings, awkward: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses of training and validation, and the number of steps, do not depend on the limit."""
    whole = run(tmp_path / "whole", build(tiny_bases), awkward, awkward[1:3])
    tokens, loss = [], TrainStep.loss

    def counted(self: TrainStep, batch: Any, scale: float, **others: Any) -> Tensor:
        tokens.append(batch.rows.ids.numel())
        return loss(self, batch, scale, **others)

    monkeypatch.setattr(TrainStep, "loss", counted)
    split = run(tmp_path / "split", build(tiny_bases), awkward, awkward[1:3], batch_tokens=60)
    assert max(tokens) <= 60
    assert split.steps == whole.steps
    for mine, yours in zip(history(tmp_path / "split"), history(tmp_path / "whole"), strict=True):
        assert mine == pytest.approx(yours, rel=1e-3)


def test_stopped_and_resumed(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path) -> None:
    stopped_and_resumed(tiny_bases, make_samples, tmp_path, batch_tokens=55)


def test_a_run_without_enough_memory_goes_on_with_a_limit(
    tiny_bases: ModelSettings, awkward: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", build(tiny_bases), awkward, save_every=1)
    loss = TrainStep.loss

    def limited(self: TrainStep, batch: Any, scale: float, **others: Any) -> Tensor:
        if batch.rows.ids.numel() > 150:
            raise MemoryError
        return loss(self, batch, scale, **others)

    monkeypatch.setattr(TrainStep, "loss", limited)
    with pytest.raises(ImageCapError, match=r"give --batch_tokens \(also with --resume\)"):
        run(tmp_path / "parts", build(tiny_bases), awkward, save_every=1)
    parts = run(tmp_path / "parts", build(tiny_bases), awkward, save_every=1, resume=True, batch_tokens=150)
    assert parts.steps == whole.steps
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-3)


def test_only_the_pictures_of_a_pass_are_named(
    tiny_model: ImageCaptioner, awkward: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = TrainStep.loss

    def broken(self: TrainStep, batch: Any, scale: float, **others: Any) -> Tensor:
        return loss(self, batch, scale, **others) * (float("nan") if "1.png" in batch.names else 1)

    monkeypatch.setattr(TrainStep, "loss", broken)
    with pytest.raises(ImageCapError, match=r"not finite at step 1, pictures 1\.png:"):
        run(tmp_path, tiny_model, awkward, batch_size=5, batch_tokens=80)


def test_the_memory_of_a_step_is_bounded(tiny_bases: ModelSettings, awkward: list[Sample], tmp_path: Path) -> None:
    def activations(**changes: Any) -> int:
        settings = settings_in(tmp_path, **changes)
        return estimate_memory(prepare_training(settings, build(tiny_bases), awkward, [], tmp_path)).activations

    bounded = activations(batch_size=50, batch_tokens=200)
    assert 10 * bounded < activations(batch_size=50)
    assert 1.5 * bounded < activations(batch_size=50, batch_tokens=400) < 2.5 * bounded
    assert activations(batch_size=1, batch_tokens=10_000) == activations(batch_size=1)
