"""Batches that advance token by token in turns give the captions of `caption`, whatever is removed on the way."""

import random
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from imagecap.config import GenerateSettings
from imagecap.generate.caption_batch import CaptionBatch, picture_uniforms
from imagecap.generate.captioner import caption
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import tokenize_prompt

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."
SETTINGS = [
    GenerateSettings(max_length=12),
    GenerateSettings(max_length=14, num_beams=4, num_captions=3),
    GenerateSettings(max_length=20, num_beams=2, length_penalty=2.0, repetition_penalty=1.3, min_length=5),
    GenerateSettings(max_length=12, temperature=0.9, num_captions=3, top_k=50),
    GenerateSettings(max_length=9, temperature=1.2, top_p=0.9, no_repeat_ngram_size=2),
    GenerateSettings(max_length=1, num_beams=3, num_captions=2),
    GenerateSettings(max_length=10, num_captions=2, temperature=0.5, caption_start="a red"),
]


def started(model: "ImageCaptioner", pictures: list[Image.Image], settings: GenerateSettings) -> CaptionBatch:
    pixels = model.pixel_values(pictures)
    prompts = [tokenize_prompt(model, PROMPT, settings)] * len(pictures)
    uniforms = picture_uniforms(pixels, prompts, settings)
    return CaptionBatch(model, model.encode_images(pixels), prompts, settings, uniforms)


def assert_equal(found: GeneratedCaption, expected: GeneratedCaption) -> None:
    assert (found.text, found.token_ids) == (expected.text, expected.token_ids)
    assert found.score == pytest.approx(expected.score, abs=1e-6)
    assert len(found.others) == len(expected.others)
    for ours, theirs in zip(found.others, expected.others, strict=True):
        assert_equal(ours, theirs)


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(3))
def test_turns_and_removed_pictures_change_no_token(
    model: "ImageCaptioner", pictures: list[Image.Image], seed: int
) -> None:
    """In float64: batches of all kinds take steps in a random order, and some of their pictures are removed."""
    model.double()
    expected = [caption(model, pictures, PROMPT, settings) for settings in SETTINGS]
    rng = random.Random(seed)
    running = {kind: started(model, pictures, settings) for kind, settings in enumerate(SETTINGS)}
    removed = finished = 0
    while running:
        kind = rng.choice(list(running))
        batch = running[kind]
        for picture, made in batch.step().items():
            assert_equal(made, expected[kind][picture])
            finished += 1
        if batch.pictures and rng.random() < 0.2:
            leaving = rng.sample(batch.pictures, rng.randint(1, len(batch.pictures)))
            batch.remove(leaving)
            removed += len(leaving)
        if not batch.pictures:
            del running[kind]
    assert removed > 3
    assert finished + removed == len(SETTINGS) * len(pictures)


@torch.inference_mode()
def test_a_picture_is_returned_as_soon_as_it_is_done(model: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    batch = started(model, pictures, SETTINGS[6])
    steps = []
    while batch.pictures:
        before = len(batch.pictures)
        steps.append(len(batch.step()))
        assert len(batch.pictures) == before - steps[-1]
    assert sum(step > 0 for step in steps) > 1
    assert sum(steps) == len(pictures)
