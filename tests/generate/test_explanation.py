"""How sure the model was and where it looked, compared with attention and probabilities computed plainly."""

import math

import pytest
import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption, prepare_to_caption
from imagecap.generate.explanation import explain
from imagecap.generate.prompts import TokenizedPrompt, embed_prefixes, tokenize_prompt
from imagecap.generate.words import words_of
from imagecap.model.imagecap_arch import ImageCaptioner
from tests.tiny import picture

PROMPT = "Describe this image."
SETTINGS = GenerateSettings(max_length=9, allow_empty=True)


def rotated(states: Tensor, theta: float) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of `[heads, tokens, head_dim]`."""
    half = states.shape[-1] // 2
    angles = torch.arange(states.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    one, other = states[..., :half], states[..., half:]
    return torch.cat((one * angles.cos() - other * angles.sin(), other * angles.cos() + one * angles.sin()), -1)


def plain_attention(model: ImageCaptioner, embeddings: Tensor) -> Tensor:
    """Mean weights over heads and layers, `[tokens, tokens]`, from the queries and keys of every layer."""
    language_model, inputs = model.language_model, []
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda _, __, given: inputs.append(given["hidden_states"][0]), with_kwargs=True
        )
        for layer in language_model.layers
    ]
    language_model(inputs_embeds=embeddings, use_cache=False)
    for hook in hooks:
        hook.remove()
    theta, tokens = language_model.config.rope_parameters["rope_theta"], embeddings.shape[1]
    total = torch.zeros(tokens, tokens, dtype=torch.float64)
    for layer, states in zip(language_model.layers, inputs, strict=True):
        attention = layer.self_attn
        size = attention.head_dim
        queries = attention.q_norm(attention.q_proj(states).view(tokens, -1, size)).transpose(0, 1)
        keys = attention.k_norm(attention.k_proj(states).view(tokens, -1, size)).transpose(0, 1)
        keys = rotated(keys, theta).repeat_interleave(queries.shape[0] // keys.shape[0], 0)
        scores = rotated(queries, theta) @ keys.transpose(1, 2) / math.sqrt(size)
        scores.masked_fill_(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
        total += scores.softmax(-1).mean(0)
    return total / len(inputs)


@pytest.fixture
def model(tiny_model: ImageCaptioner) -> ImageCaptioner:
    prepare_to_caption(tiny_model, compiled=False)
    return tiny_model


def prompt_of(model: ImageCaptioner) -> TokenizedPrompt:
    return tokenize_prompt(model, PROMPT, SETTINGS)


def test_attention_is_that_of_queries_and_keys(model: ImageCaptioner) -> None:
    """In float64, for every token of a caption and every patch."""
    model.llava.double()
    pixels = model.preprocess([picture(3)])[0]
    tokens = caption(model, [picture(3)], PROMPT, SETTINGS)[0].token_ids
    prompt = prompt_of(model)
    with torch.inference_mode():
        found = explain(model, pixels, prompt, tokens)
        prefix, _ = embed_prefixes(model, model.encode_images(pixels[None].double()), [prompt])
        plain = plain_attention(model, torch.cat((prefix, model.embed_tokens(torch.tensor([tokens[:-1]]))), 1))
    start, first = len(prompt.before), prefix.shape[1] - 1
    expected = plain[first:, start : start + 16].view(len(tokens), 4, 4)
    assert found.attention is not None
    assert found.attention.shape == (len(tokens), 4, 4)
    torch.testing.assert_close(found.attention.double(), expected, rtol=1e-5, atol=1e-7)
    assert (found.attention.sum((1, 2)) < 1).all()  # the rest is on the prompt and the tokens before
    assert len({round(float(each), 6) for each in found.attention.flatten()}) > len(tokens)


def test_probabilities_are_those_of_decoding(model: ImageCaptioner) -> None:
    made = caption(model, [picture(3)], PROMPT, SETTINGS)[0]
    with torch.inference_mode():
        found = explain(model, model.preprocess([picture(3)])[0], prompt_of(model), made.token_ids)
    assert len(found.log_probabilities) == len(made.token_ids)
    assert math.isclose(float(found.log_probabilities.mean()), made.score, rel_tol=1e-4)
    assert caption(model, [picture(3)], PROMPT, SETTINGS)[0] == made  # nothing has changed in the model


def test_the_attention_implementation_is_put_back(model: ImageCaptioner) -> None:
    config = model.language_model.config
    before = config._attn_implementation
    with torch.inference_mode(), pytest.raises(IndexError):
        explain(model, model.preprocess([picture(3)])[0], prompt_of(model), [10**6, 1])
    assert config._attn_implementation == before


def test_part_of_a_picture_that_the_encoder_sees(model: ImageCaptioner) -> None:
    """It is resized by the shorter side and cropped to the middle."""
    assert model.visible_region(100, 100) == (0, 0, 1, 1)
    left, top, width, height = model.visible_region(200, 100) or (0, 0, 0, 0)
    assert (top, height) == (0, 1)
    assert math.isclose(width, 0.5, abs_tol=0.01)
    assert math.isclose(left, 0.25, abs_tol=0.01)
    assert model.grid == (4, 4)
    model.image_processor.do_pad = True  # to a square: the region goes beyond the picture, above and below
    assert model.visible_region(200, 100) == (0, -0.5, 1, 2)


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("a red cat on a green mat", "", ["a", "red", "cat", "on", "a", "green", "mat"]),
        ("cat, on a mat.", "a red", ["a", "red", "cat,", "on", "a", "mat."]),
        ("  two   dogs ", "", ["two", "dogs"]),
        ("", "", []),
    ],
)
def test_words_are_parted_by_blanks(model: ImageCaptioner, text: str, start: str, words: list[str]) -> None:
    settings = SETTINGS.model_copy(update={"caption_start": start})
    tokens = [*model.text_ids(f" {text}" if start else text), model.eos_token_id]
    whole, found = words_of(model, tokens, settings)
    assert [whole[word.start : word.end] for word in found] == words
    given = len(start.split())
    assert all(not word.tokens for word in found[:given])
    spelled = [token for word in found for token in word.tokens]
    assert spelled == sorted(set(spelled))  # no token in two words, and none out of order
    assert all(word.tokens for word in found[given:])


def test_words_without_blanks(model: ImageCaptioner) -> None:
    """Chinese characters that one token spells are one word; a character of several tokens belongs to all of them."""
    tokens = [*model.text_ids("一只红色的猫和鳜鱼。"), model.eos_token_id]
    text, found = words_of(model, tokens, SETTINGS)
    assert text == "一只红色的猫和鳜鱼。"
    assert "".join(text[word.start : word.end] for word in found) == text
    assert max(len(word.tokens) for word in found) > 1  # bytes of a character that the vocabulary does not have
    spelled = [token for word in found for token in word.tokens]
    assert spelled == list(range(len(tokens) - 1))
