"""Captions equal those of transformers' `generate`, whatever else is in the batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.generated import GeneratedCaption
from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."
Pictures = list[Image.Image]
Stock = Callable[..., list[tuple[list[int], float | None]]]


def check(ours: list[GeneratedCaption], theirs: list[tuple[list[int], float | None]]) -> None:
    assert [one.token_ids for one in ours] == [tokens for tokens, _ in theirs]
    for one, (_, score) in zip(ours, theirs, strict=True):
        assert score is None or one.score == pytest.approx(score, rel=1e-5)


def test_greedy(model: ImageCaptioner, pictures: Pictures, stock: Stock) -> None:
    theirs = stock(model, pictures, PROMPT, max_new_tokens=22)
    lengths = [len(tokens) for tokens, _ in theirs]
    assert len(set(lengths)) >= 5  # the captions end at many different steps
    assert max(lengths) == 22  # and some do not end at all
    for batch_size in range(1, 9):
        check(caption(model, pictures, PROMPT, GenerateSettings(max_length=22), batch_size), theirs)


@pytest.mark.parametrize("length_penalty", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_beams(model: ImageCaptioner, pictures: Pictures, stock: Stock, beams: int, length_penalty: float) -> None:
    model.llava.generation_config.eos_token_id = [25]
    theirs = stock(model, pictures, PROMPT, max_new_tokens=26, num_beams=beams, length_penalty=length_penalty)
    # a penalty of 2 makes long captions win, to the very end with many beams
    assert length_penalty == 2 or len({len(tokens) for tokens, _ in theirs}) >= 2
    settings = GenerateSettings(max_length=26, num_beams=beams, length_penalty=length_penalty)
    for batch_size in (1, 3, 8):
        check(caption(model, pictures, PROMPT, settings, batch_size), theirs)


@pytest.mark.parametrize("ends", [[25, 262], list(range(100, 300))])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"num_beams": 4, "max_length": 1}, {"num_beams": 4, "max_new_tokens": 1}),
        ({"num_beams": 3, "min_length": 18}, {"num_beams": 3, "min_new_tokens": 18}),
        ({"num_beams": 3, "length_penalty": -0.5}, {"num_beams": 3, "length_penalty": -0.5}),
        ({"num_beams": 3, "repetition_penalty": 1.4}, {"num_beams": 3, "repetition_penalty": 1.4}),
        ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
        ({"num_beams": 3, "no_repeat_ngram_size": 1}, {"num_beams": 3, "no_repeat_ngram_size": 1}),
        ({"min_length": 9}, {"min_new_tokens": 9}),
        ({"min_length": 20}, {"min_new_tokens": 20}),
        ({"max_length": 1}, {"max_new_tokens": 1}),
    ],
)
def test_options(
    model: ImageCaptioner,
    pictures: Pictures,
    stock: Stock,
    ends: list[int],
    ours: dict[str, Any],
    theirs: dict[str, Any],
) -> None:
    model.llava.generation_config.eos_token_id = ends
    expected = stock(model, pictures, PROMPT, **{"max_new_tokens": 20, **theirs})
    check(caption(model, pictures, PROMPT, GenerateSettings(**{"max_length": 20, **ours}), 5), expected)


@pytest.mark.parametrize("beams", [1, 3])
def test_mixed_prompts_keep_the_order(model: ImageCaptioner, pictures: Pictures, beams: int) -> None:
    settings = GenerateSettings(max_length=20, num_beams=beams)
    prompts = [PROMPT, "描述这张图片。", PROMPT, "x", "y", PROMPT, "描述这张图片。", "a red cat"]
    together = caption(model, (picture for picture in pictures), prompts, settings, 3)
    alone = [caption(model, [p], q, settings)[0] for p, q in zip(pictures, prompts, strict=True)]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]


def test_prompt_of_settings_then_of_model(model: ImageCaptioner, pictures: Pictures) -> None:
    given = caption(model, pictures[:1], "a red cat", GenerateSettings())
    assert caption(model, pictures[:1], None, GenerateSettings(prompt="a red cat")) == given
    model.info["prompt"] = "a red cat"
    assert caption(model, pictures[:1], None, GenerateSettings()) == given
    assert caption(model, pictures[:1], None, GenerateSettings(prompt="x")) != given
    del model.info["prompt"]
    with pytest.raises(ImageCapError, match="--prompt"):
        caption(model, pictures[:1], None, GenerateSettings())


def test_score_is_the_mean_log_probability(model: ImageCaptioner, pictures: Pictures) -> None:
    piece = model.prompt_ids(PROMPT)
    for picture, one in zip(pictures, caption(model, pictures, PROMPT, GenerateSettings()), strict=True):
        head = [*piece.before, *[model.image_token_id] * model.num_image_tokens, *piece.after]
        ids = torch.tensor([head + one.token_ids])
        with torch.no_grad():
            logits = model.llava(input_ids=ids, pixel_values=model.pixel_values([picture])).logits[0]
        said = logits[len(head) - 1 : -1].log_softmax(-1).gather(1, ids[0, len(head) :, None])
        assert one.score == pytest.approx(float(said.mean()), rel=1e-4)


def test_text_has_no_special_tokens(model: ImageCaptioner, pictures: Pictures) -> None:
    # whatever the head prefers, the only token that is left is the end token: the caption is empty
    end = model.eos_token_id
    model.llava.generation_config.eos_token_id = end
    with torch.no_grad():
        model.llava.lm_head.weight.copy_(torch.zeros_like(model.llava.lm_head.weight))
        bias = torch.zeros(model.llava.lm_head.out_features)
        bias[end] = 1
        model.llava.lm_head.bias = torch.nn.Parameter(bias)
    for beams in (1, 3):
        one = caption(model, pictures[:1], PROMPT, GenerateSettings(num_beams=beams, allow_empty=True))[0]
        assert (one.text, one.token_ids) == ("", [end])


def test_end_tokens_as_checkpoints_name_them(model: ImageCaptioner, pictures: Pictures, stock: Stock) -> None:
    model.llava.generation_config.eos_token_id = [25]
    theirs = stock(model, pictures, PROMPT, max_new_tokens=20)
    model.llava.generation_config.eos_token_id = 25  # one end token, as most checkpoints write it
    check(caption(model, pictures, PROMPT, GenerateSettings(max_length=20)), theirs)
    model.llava.generation_config.eos_token_id = None
    model.eos_token_id = 25
    check(caption(model, pictures, PROMPT, GenerateSettings(max_length=20)), theirs)


def test_nothing_to_do(model: ImageCaptioner) -> None:
    assert caption(model, [], PROMPT, GenerateSettings()) == []


def test_numbers_of_pictures_and_prompts(model: ImageCaptioner, pictures: Pictures) -> None:
    with pytest.raises(ImageCapError, match="more pictures than prompts"):
        caption(model, pictures, [PROMPT], GenerateSettings())
    with pytest.raises(ImageCapError, match="9 prompts but 8 pictures"):
        caption(model, pictures, [PROMPT] * 9, GenerateSettings())


def test_settings_that_exclude_each_other(model: ImageCaptioner, pictures: Pictures) -> None:
    with pytest.raises(ValidationError):
        GenerateSettings(num_beams=2, temperature=0.5)
    copied = GenerateSettings(num_beams=2).model_copy(update={"temperature": 0.5})
    with pytest.raises(ImageCapError, match="set temperature to 0"):
        caption(model, pictures, PROMPT, copied)
    with pytest.raises(ImageCapError, match="min_length"):
        caption(model, pictures, PROMPT, GenerateSettings(max_length=3).model_copy(update={"min_length": 4}))
    with pytest.raises(ImageCapError, match="batch_size"):
        caption(model, pictures, PROMPT, GenerateSettings(), 0)


def test_more_tokens_than_positions(model: ImageCaptioner, pictures: Pictures) -> None:
    with pytest.raises(ImageCapError, match="lower max_length by"):
        caption(model, pictures, PROMPT, GenerateSettings(max_length=500))


def test_dropout_is_off_and_comes_back(model: ImageCaptioner, pictures: Pictures) -> None:
    settings = GenerateSettings(max_length=10)
    expected = caption(model, pictures, PROMPT, settings)
    for layer in model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.language_model.train()
    assert caption(model, pictures, PROMPT, settings) == expected
    assert model.language_model.training
    assert not model.vision_tower.training


def test_bfloat16(model: ImageCaptioner, pictures: Pictures) -> None:
    model.to(torch.bfloat16)
    for beams in (1, 3):
        captions = caption(model, pictures, PROMPT, GenerateSettings(max_length=20, num_beams=beams))
        assert all(one.token_ids for one in captions)


def test_the_best_beams(model: ImageCaptioner, pictures: Pictures, stock: Stock) -> None:
    model.llava.generation_config.eos_token_id = [25]
    options = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 20}
    theirs = stock(model, pictures, PROMPT, **options)
    ours = caption(model, pictures, PROMPT, GenerateSettings(max_length=20, num_beams=4, num_captions=3), 3)
    check([one for best in ours for one in (best, *best.others)], theirs)


def test_several_samples(model: ImageCaptioner, pictures: Pictures) -> None:
    settings = GenerateSettings(max_length=12, temperature=1.0, num_captions=4, sample_seed=2)
    many = caption(model, pictures, PROMPT, settings, 3)
    one = caption(model, pictures, PROMPT, settings.model_copy(update={"num_captions": 1}))
    assert [each.token_ids for each in many] == [each.token_ids for each in one], "the first is what one would be"
    assert all(len(each.others) == 3 for each in many)
    assert all(len({tuple(made.token_ids) for made in (each, *each.others)}) > 1 for each in many)


@pytest.mark.parametrize("beams", [1, 3])
def test_how_a_caption_begins(model: ImageCaptioner, pictures: Pictures, stock: Stock, beams: int) -> None:
    """The model goes on from the beginning as if it had said it."""
    start = "a red"
    ids = model.caption_ids(start, 99)[:-1]
    ours = caption(model, pictures, PROMPT, GenerateSettings(max_length=9, num_beams=beams, caption_start=start))
    piece = model.prompt_ids(PROMPT)
    for image, each in zip(pictures, ours, strict=True):
        row = [*piece.before, *[model.image_token_id] * model.num_image_tokens, *piece.after, *ids]
        said = model.llava.generate(
            input_ids=torch.tensor([row]),
            attention_mask=torch.ones(1, len(row)),
            pixel_values=model.pixel_values([image]),
            do_sample=False,
            num_beams=beams,
            max_new_tokens=9,
            pad_token_id=0,
        )[0, len(row) :].tolist()
        assert each.token_ids == said[: len(each.token_ids)]
        assert each.text.startswith(start)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_captions": 2}, "needs num_beams or temperature"),
        ({"num_beams": 2, "num_captions": 3}, "must not be above num_beams"),
    ],
)
def test_more_captions_than_there_are(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateSettings(**changes)  # type: ignore[arg-type]
