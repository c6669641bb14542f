"""The fields `{length}` and `{tags}` of a prompt: filled from captions in training, and from settings afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest

from imagecap.config import GenerateSettings, ModelSettings, TrainSettings
from imagecap.data.prompt_fields import fill, fill_for
from imagecap.eval.behaviour import all_tags_share, behaviour
from imagecap.generate.prompts import tokenize_prompt
from imagecap.model.builder import build
from imagecap.train.plan import Plan
from tests.train.conftest import WORDS, MakeSamples

PROMPT = "Say {length} words with {tags}."


def test_captions_fill_the_fields_themselves() -> None:
    texts = [f"a {colour} horse near {count} houses" for colour in ("red", "brown", "white") for count in range(40)]
    filled = [fill_for(PROMPT, text) for text in texts]
    assert filled == [fill_for(PROMPT, text) for text in texts]
    lengths = [each.split()[1] for each in filled]
    assert set(lengths) == {"6", "any"}
    assert 0.1 < lengths.count("any") / len(lengths) < 0.3
    tags = [each.partition("with ")[2].removesuffix(".") for each in filled]
    assert 0.1 < tags.count("any") / len(tags) < 0.3
    named = {word for each in tags for word in each.split(", ")} - {"any"}
    assert named == {"horse", "near", "houses", "brown", "white"}
    assert len({each.count(", ") for each in tags}) == 3
    for text, each in zip(texts, tags, strict=True):
        assert each == "any" or set(each.split(", ")) <= set(text.split())


def test_chinese_lengths_are_characters_and_have_no_tags() -> None:
    filled = {fill_for(PROMPT, f"{colour}色的猫在草地上。") for colour in "红黄蓝绿白黑灰紫"}
    assert filled == {"Say 8 words with any.", "Say any words with any."}


def test_settings_fill_the_fields(tiny_bases: ModelSettings) -> None:
    model = build(tiny_bases)
    plain = GenerateSettings()
    asked = GenerateSettings(target_length=7, tags="dog , beach,")
    assert tokenize_prompt(model, PROMPT, plain).text == fill(PROMPT) == "Say any words with any."
    tokenized = tokenize_prompt(model, PROMPT, asked)
    assert tokenized.text == "Say 7 words with dog, beach."
    assert tokenized.after == model.prompt_ids("Say 7 words with dog, beach.").after
    assert tokenize_prompt(model, "no fields", asked).after == model.prompt_ids("no fields").after


def test_training_rows_have_filled_prompts(tiny_bases: ModelSettings, make_samples: MakeSamples) -> None:
    model = build(tiny_bases)
    samples = [
        replace(sample, captions=tuple(replace(caption, prompt=PROMPT) for caption in sample.captions))
        for sample in make_samples(4)
    ]
    plan = Plan(model, samples, TrainSettings())
    for (branch_row), picture in zip(plan.branches(plan.all_captions(range(4))), plan.samples, strict=True):
        expected = [tuple(model.prompt_ids(fill_for(PROMPT, caption.text)).after) for caption in picture.captions]
        assert [branch.prompt for branch in branch_row] == expected
    assert plan.longest >= plan.prefix + max(len(model.prompt_ids(fill_for(PROMPT, text)).after) for text in WORDS[:4])
    assert plan.exceeds(10_000) is None
    assert plan.exceeds(plan.longest) is None
    found = plan.exceeds(plan.longest - 1)
    assert found is not None
    assert found[0] == plan.longest


def test_the_model_card_shows_a_prompt_that_can_be_used(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    model = build(tiny_bases)
    model.info["prompt"] = PROMPT
    model.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "Say any words with any." in card
    assert "{length}" not in card


def test_kept_tags_have_a_figure() -> None:
    texts = ["A dog on a beach.", "A dogged man.", "The Dog"]
    assert all_tags_share(texts, ["dog"]) == pytest.approx(2 / 3)
    found = behaviour(texts, [], [False] * 3, [], "en", GenerateSettings(tags="dog, beach"))
    assert found["all_tags_share"] == pytest.approx(1 / 3)
