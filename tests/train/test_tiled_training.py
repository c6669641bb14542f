"""Training captioners whose pictures have different numbers of tiles: exact, in bounded passes, saved as stock."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from imagecap.config import ModelSettings, Settings, TrainSettings
from imagecap.data.identity import picture_digest
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.dry_run import dry_run, estimate_memory
from imagecap.train.forward import packed_loss
from imagecap.train.loader import Loader
from imagecap.train.memory import enable_gradient_checkpointing
from imagecap.train.plan import Plan
from imagecap.train.setup import prepare_training
from imagecap.train.step import TrainStep
from tests.model.stock_captioners import SIZES, write_tiled
from tests.tiny import picture
from tests.train.conftest import MakeSamples, samples_in
from tests.train.helpers import (
    CASES,
    assert_close,
    encode,
    gradients,
    history,
    packed,
    plain_losses,
    run,
    settings_in,
    stopped_and_resumed,
)
from tests.train.test_compilation import needs_compiler

KINDS = ["llava_next", "llava_onevision"]
pytestmark = pytest.mark.usefixtures("float64_norms")


def tiled_samples(folder: Path, count: int, first: int = 0) -> list[Sample]:
    """Samples whose pictures have several shapes."""
    samples = []
    for number, sample in enumerate(samples_in(folder, count, first=first)):
        image = picture(first + number, SIZES[(first + number) % len(SIZES)])
        image.save(sample.path)
        samples.append(replace(sample, digest=picture_digest(image)))
    return samples


def open_tiled(folder: Path, kind: str, **changes: Any) -> ImageCaptioner:
    write_tiled(folder, kind)
    return build(ModelSettings(model_path=str(folder), **{"freeze_vision_model": False, **changes}))


@pytest.mark.parametrize("case", ["ragged", "prompts of their own"])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_pictures_have_the_gradients_of_stock(tmp_path: Path, kind: str, case: str) -> None:
    model = open_tiled(tmp_path, kind).double()
    rows = encode(model, CASES[case])
    images = [picture(seed, SIZES[2 * seed + 1]) for seed in range(len(rows))]
    theirs = torch.cat(plain_losses(model, images, rows)).mean()
    theirs.backward()
    expected = gradients(model)
    assert "model.image_newline" in expected
    pixels = model.pixel_values(images)
    counts = model.image_token_counts(pixels)
    assert len(set(counts)) == len(counts)
    batch = packed(model, rows, counts)
    ours = packed_loss(model, model.encode_images(pixels), batch, batch.weights("token") / len(batch.labels))
    ours.backward()
    assert abs(ours.item() - theirs.item()) < 1e-10 * theirs.item()
    assert_close(gradients(model), expected, 1e-8)


def loss_of_first_step(
    model: ImageCaptioner, samples: Sequence[Sample], limit: int | None, compiled: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first optimizer step, whose weights are not updated."""
    plan = Plan(model, samples, TrainSettings(batch_size=5))
    step = TrainStep(model, torch.float32, batch_tokens=limit, compiled=compiled)
    loaded = next(iter(Loader(model, plan, None, 10_000_000).steps(plan.epoch(0))))
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.0)
    result = step.step(optimizer, loaded.micro_batches, loaded.weight, 1e9)
    return result.loss, gradients(model)


@pytest.mark.parametrize("frozen", [True, False])
def test_passes_of_bounded_size_and_checkpointing_change_nothing(tmp_path: Path, frozen: bool) -> None:
    samples = tiled_samples(tmp_path / "images", 5)
    model = open_tiled(tmp_path / "model", "llava_onevision", freeze_vision_model=frozen).double()
    whole, expected = loss_of_first_step(model, samples, None)
    for limit in (120, 250):
        loss, found = loss_of_first_step(model, samples, limit)
        assert loss == pytest.approx(whole, rel=1e-10)
        assert_close(found, expected, 1e-8)
    enable_gradient_checkpointing(model)
    loss, found = loss_of_first_step(model, samples, None)
    assert loss == pytest.approx(whole, rel=1e-10)
    assert_close(found, expected, 1e-8)


@pytest.mark.long
@needs_compiler
def test_compiled_blocks_change_nothing(tmp_path: Path) -> None:
    """Also the encoder's, whose batches of tiles have other sizes than pictures."""
    samples = tiled_samples(tmp_path / "images", 5)
    model = open_tiled(tmp_path / "model", "llava_next").double()
    whole, expected = loss_of_first_step(model, samples, None)
    loss, found = loss_of_first_step(model, samples, 250, compiled=True)
    assert loss == pytest.approx(whole, rel=1e-10)
    assert_close(found, expected, 1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_ends_in_a_stock_checkpoint(tmp_path: Path, kind: str) -> None:
    samples = tiled_samples(tmp_path / "images", 5)
    model = open_tiled(tmp_path / "model", kind, freeze_vision_model=True)
    before = model.llava.model.image_newline.detach().clone()
    run(
        tmp_path,
        model,
        samples[:3],
        samples[3:],
        num_epochs=3,
        cider_epochs=1,
        cider_beams=2,
        best_by="CIDEr",
        learning_rate=0.01,
    )
    assert not torch.equal(before, model.llava.model.image_newline)
    losses = [row["loss"] for row in history(tmp_path) if "loss" in row]
    assert losses[2] < losses[0]
    final = tmp_path / "out" / "final"
    stock = AutoModelForImageTextToText.from_pretrained(final)
    assert type(stock).__name__ == {"llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}[kind] + (
        "ForConditionalGeneration"
    )
    again = load(final)
    for (name, one), (_, other) in zip(stock.named_parameters(), again.llava.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert not list((tmp_path / "state").glob("features/*"))


def test_adapters_and_bfloat16(tmp_path: Path) -> None:
    samples = tiled_samples(tmp_path / "images", 3)
    model = open_tiled(tmp_path / "model", "llava_next", lora_rank=2, freeze_vision_model=True)
    settings = settings_in(tmp_path, num_epochs=1, feature_cache_dtype="int8")
    settings = Settings.model_validate({**settings.model_dump(), "compute": {"device": "cpu", "dtype": "bfloat16"}})
    from imagecap.train.trainer import train

    train(settings, model, samples, [], state_folder=tmp_path / "state")
    assert load(tmp_path / "out" / "final").tiling is not None


def test_a_stopped_run_goes_on(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    make = partial(tiled_samples, tmp_path / "images")
    stopped_and_resumed(tiny_bases.model_copy(update={"tiles": 3}), make, tmp_path, augment_crop=0.5)


def test_a_dry_run_counts_the_largest_picture(
    tiny_bases: ModelSettings, tmp_path: Path, make_samples: MakeSamples
) -> None:
    samples = make_samples(4)
    model = build(tiny_bases.model_copy(update={"tiles": 4}))
    said = dry_run(settings_in(tmp_path), model, samples, [], tmp_path / "state")
    assert f"tokens: up to {model.num_image_tokens} a picture" in said
    setups = [
        prepare_training(settings_in(tmp_path), each, samples, [], tmp_path / "state")
        for each in (build(tiny_bases), build(tiny_bases.model_copy(update={"tiles": 4})))
    ]
    flat, tiled = (estimate_memory(setup).activations for setup in setups)
    assert tiled > 2 * flat


def test_what_does_not_go_with_tiles(tiny_bases: ModelSettings, tmp_path: Path, make_samples: MakeSamples) -> None:
    model = build(tiny_bases.model_copy(update={"tiles": 4}))
    with pytest.raises(ImageCapError, match="shard_model is not for captioners that cut pictures into tiles"):
        dry_run(settings_in(tmp_path, shard_model=True), model, make_samples(2), [], tmp_path / "state")
    with pytest.raises(ImageCapError, match=r"are \d+ tokens, more than batch_tokens = 40: raise batch_tokens"):
        prepare_training(settings_in(tmp_path, batch_tokens=40), model, make_samples(2), [], tmp_path / "state")
