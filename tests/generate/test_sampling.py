"""Sampling draws from the right distribution, and a sample depends on seed, picture and prompt only."""

import pytest
import torch
from PIL import Image
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption
from imagecap.generate.rules import Rules
from imagecap.generate.sampling import row_uniforms, sample
from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."
Pictures = list[Image.Image]


def test_a_sample_does_not_depend_on_the_batch(model: ImageCaptioner, pictures: Pictures) -> None:
    settings = GenerateSettings(max_length=20, temperature=1.0, top_p=0.95, top_k=100)
    together = caption(model, pictures, PROMPT, settings, 8)
    assert len({tuple(one.token_ids) for one in together}) == len(pictures)
    backwards = caption(model, pictures[::-1], PROMPT, settings, 3)[::-1]
    alone = [caption(model, [picture], PROMPT, settings)[0] for picture in pictures]
    for other in (backwards, alone):
        assert [one.token_ids for one in other] == [one.token_ids for one in together]


def test_seed_and_prompt_change_the_sample(model: ImageCaptioner, pictures: Pictures) -> None:
    def tokens(seed: int, temperature: float = 1.0) -> list[list[int]]:
        settings = GenerateSettings(max_length=20, temperature=temperature, sample_seed=seed)
        return [one.token_ids for one in caption(model, pictures, PROMPT, settings)]

    assert tokens(0) == tokens(0)
    assert tokens(0) != tokens(1)
    pixels = model.pixel_values(pictures[:1])
    assert not torch.equal(row_uniforms(0, pixels, ["a"], 5), row_uniforms(0, pixels, ["b"], 5))


def test_sampling_the_likeliest_only_is_greedy(model: ImageCaptioner, pictures: Pictures) -> None:
    greedy = caption(model, pictures, PROMPT, GenerateSettings(max_length=20))
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        settings = GenerateSettings(max_length=20, temperature=0.7, **narrow)
        assert [one.token_ids for one in caption(model, pictures, PROMPT, settings)] == [o.token_ids for o in greedy]


def test_rules_are_those_of_transformers() -> None:
    scores = torch.randn((3, 50), generator=torch.Generator().manual_seed(0))
    said = torch.zeros((3, 4), dtype=torch.long)
    expected = TopPLogitsWarper(0.8)(said, TopKLogitsWarper(20)(said, TemperatureLogitsWarper(0.6)(said, scores)))
    settings = GenerateSettings(temperature=0.6, top_k=20, top_p=0.8)
    rules = Rules(settings, [1], torch.zeros((3, 2), dtype=torch.long))
    assert torch.equal(rules.apply(scores, said), expected)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, -torch.inf, 0.5, -1.0, 1.0, -torch.inf])
    draws = 200_000
    uniforms = torch.rand(draws, generator=torch.Generator().manual_seed(0))
    drawn = sample(logits.expand(draws, -1), uniforms)
    observed = torch.bincount(drawn, minlength=6).double() / draws
    expected = logits.softmax(-1).double()
    assert observed[1] == observed[5] == 0
    # five standard deviations of a share
    assert (observed - expected).abs().max() < 5 * (0.25 / draws) ** 0.5


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_extreme_draws_are_possible_tokens(uniform: float) -> None:
    logits = torch.full((1, 152_000), -torch.inf)
    logits[0, 70_000:90_000] = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    token = int(sample(logits, torch.tensor([uniform])))
    assert 70_000 <= token < 90_000
