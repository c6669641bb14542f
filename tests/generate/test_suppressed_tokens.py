"""No caption is empty unless that is allowed, and captions equal those of `generate` with the same settings."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import nn

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption, start_caption
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import embed_prefixes, tokenize_prompt
from imagecap.generate.streaming import stream_caption
from imagecap.model.language_model.silent_tokens import suppress_silent_tokens

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"repetition_penalty": 1.3, "min_length": 3},
    {"num_beams": 3},
    {"num_beams": 4, "num_captions": 3, "length_penalty": -0.5},
)


def prefer(model: "ImageCaptioner", ids: Iterable[int], bias: float) -> None:
    """Add a number to the logits of some tokens."""
    biases = torch.zeros(model.lm_head.out_features)
    biases[list(ids)] = bias
    model.lm_head.bias = nn.Parameter(biases)


@pytest.fixture
def silent(model: "ImageCaptioner") -> "ImageCaptioner":
    """A captioner that prefers to end at once, and special tokens, white space and rows without a token otherwise."""
    config = model.llava.generation_config
    config.suppress_tokens = config.begin_suppress_tokens = None
    suppress_silent_tokens(model.llava, model.tokenizer)
    blanks = {*config.begin_suppress_tokens, *config.suppress_tokens}
    prefer(model, blanks, 30.0)
    return model


@pytest.mark.parametrize("way", WAYS)
def test_captions_equal_those_of_generate(
    silent: "ImageCaptioner", pictures: list[Image.Image], stock: Callable[..., Any], way: dict[str, Any]
) -> None:
    names = {"min_length": "min_new_tokens", "num_captions": "num_return_sequences"}
    expected = stock(silent, pictures, PROMPT, max_new_tokens=9, **{names.get(name, name): way[name] for name in way})
    made = caption(silent, pictures, PROMPT, GenerateSettings(max_length=9, **way), 3)
    found = [each for best in made for each in (best, *best.others)]
    assert [each.token_ids for each in found] == [tokens for tokens, _ in expected]
    assert all(each.text for each in found)
    assert any(len(each.token_ids) < 9 for each in found), "captions still end"


def test_samples_streams_and_shared_batches(silent: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    for way in ({}, {"temperature": 1.0}, {"repetition_penalty": 1.2}):
        settings = GenerateSettings(max_length=9, **way)
        expected = caption(silent, pictures, PROMPT, settings)
        assert all(each.text for each in expected)
        assert "".join(stream_caption(silent, pictures[0], PROMPT, settings)) == expected[0].text
        found: dict[int, RunningCaption] = {}
        with torch.inference_mode():
            batch, waiting = ContinuousBatch(silent), list(enumerate(pictures))
            while waiting or batch.rows:
                if waiting:  # a picture joins at every step
                    place, picture = waiting.pop(0)
                    prompt, pixels = tokenize_prompt(silent, PROMPT, settings), silent.pixel_values([picture])
                    prefix, ids = embed_prefixes(silent, silent.encode_images(pixels), [prompt])
                    batch.admit(prefix, [start_caption(silent, prompt, settings, ids[0], pixels[0], place)])
                found |= {row.key: row for row in batch.step()}
        assert [found[place].tokens for place in range(len(pictures))] == [each.token_ids for each in expected]


@pytest.mark.parametrize("beams", [1, 3])
def test_an_empty_caption_that_is_allowed(silent: "ImageCaptioner", pictures: list[Image.Image], beams: int) -> None:
    prefer(silent, [25], 30.0)
    settings = GenerateSettings(max_length=9, num_beams=beams, allow_empty=True)
    assert [each.token_ids for each in caption(silent, pictures[:2], PROMPT, settings)] == [[25], [25]]


def test_white_space_of_several_tokens_is_an_error(silent: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    """A wide space has three bytes, each of which is a token, and visible characters begin with the first too."""
    space = silent.text_ids("\u2003")
    assert len(set(space)) == 3
    with torch.no_grad():
        silent.lm_head.weight.zero_()
    silent.lm_head.bias = nn.Parameter(torch.zeros(silent.lm_head.out_features))
    for place, token in enumerate(space):
        silent.lm_head.bias.data[token] = 30.0 - place
    settings = GenerateSettings(max_length=3, no_repeat_ngram_size=1)
    with pytest.raises(ImageCapError, match="picture 1: the model generated an empty caption"):
        caption(silent, pictures[:1], PROMPT, settings)
    with pytest.raises(ImageCapError, match="empty caption"):
        list(stream_caption(silent, pictures[0], PROMPT, settings))
    made = caption(silent, pictures[:1], PROMPT, settings.model_copy(update={"allow_empty": True}))[0]
    assert (made.text, made.token_ids) == ("", space)


def test_the_error_of_an_empty_caption() -> None:
    seen, blank = GeneratedCaption("a cat", [7], -0.1), GeneratedCaption("\u200b", [5], -0.1)
    assert seen.error is None
    for each in (blank, GeneratedCaption("a cat", [7], -0.1, others=(blank,))):
        assert "empty caption" in (each.error or "")
    assert GeneratedCaption("", [5], -0.1, empty_allowed=True).error is None
