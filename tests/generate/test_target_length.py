"""Captions keep `target_length` and `avoid_words`, equal to `generate` with such logits processors of transformers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from imagecap.config import GenerateSettings
from imagecap.data.texts import count_words
from imagecap.eval.behaviour import avoided_share, behaviour, length_kept_share
from imagecap.generate.avoided_words import avoided_tokens, holds_word
from imagecap.generate.captioner import caption
from imagecap.generate.prompts import end_token_ids
from imagecap.generate.streaming import stream_caption
from imagecap.generate.target_length import END_BONUS, GOES_ON, bounds
from imagecap.generate.token_texts import token_texts
from tests.generate.test_suppressed_tokens import prefer

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."
TEXTS = {
    "A well-lit room with three T-shirts, a dog and a man's hat.": 12,
    'A sign that says "stop" (in red) near 12 trees - all bare .': 12,
    "café naïve déjà-vu 🐕 dog": 4,
    "草地上有两只棕色的狗，在奔跑。": 13,
    "一个穿着NIKE T-shirt的男孩": 9,
    "": 0,
    " . ": 0,
}


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_counted_in_texts_and_tokens(model: "ImageCaptioner", text: str) -> None:
    assert count_words(text) == TEXTS[text]
    ids = torch.tensor([model.text_ids(text)], dtype=torch.long)
    assert int(token_texts(model).count(ids)[0]) == TEXTS[text]


def test_a_beginning_counts(model: "ImageCaptioner") -> None:
    texts = token_texts(model)
    whole = model.text_ids("A red T-shirt on grass")
    for place in range(1, len(whole)):
        before = torch.tensor([whole[:place]])
        counted, _ = texts.count(torch.tensor([whole[place:]]), before[:, -1:])
        assert int(texts.count(before)[0] + counted) == 5


@pytest.fixture
def speaking(model: "ImageCaptioner") -> "ImageCaptioner":
    """A captioner that generates words and end tokens only."""
    texts = token_texts(model).texts
    ids = [number for number, text in enumerate(texts) if text[:1] == " " and text.strip().isalpha()]
    assert {" cat", " mat", " dogs"} <= {texts[number] for number in ids}
    prefer(model, [*ids, *end_token_ids(model)], 30.0)
    return model


class WithinLength(LogitsProcessor):
    """The rule as a logits processor of transformers, which counts the words of each row in Python."""

    def __init__(self, model: "ImageCaptioner", target: int, prefix: int) -> None:
        self.texts, self.ends = token_texts(model), end_token_ids(model)
        self.target, self.prefix = target, prefix

    def length(self, row: list[int]) -> int:
        return int(self.texts.count(torch.tensor([row], dtype=torch.long))[0])

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        fewest, most = bounds(self.target)
        out: Any = scores.clone()
        for place, row in enumerate(input_ids[:, self.prefix :].tolist()):
            now = self.length(row)
            for token in range(out.shape[1]):
                text, then = self.texts.texts[token], self.length([*row, token])
                if token not in self.ends and (now < then > most or (now >= most and text and set(text) <= GOES_ON)):
                    out[place, token] = -torch.inf
            for token in self.ends:
                out[place, token] = (
                    -torch.inf if now < fewest else out[place, token] + END_BONUS * max(0, now - self.target)
                )
        return out


@pytest.mark.parametrize("way", [{}, {"num_beams": 3, "num_captions": 2}])
def test_captions_equal_those_of_generate(
    model: "ImageCaptioner", pictures: list[Image.Image], stock: Callable[..., Any], way: dict[str, Any]
) -> None:
    ids = model.prompt_ids(PROMPT)
    rule = WithinLength(model, 3, len(ids.before) + model.num_image_tokens + len(ids.after))
    names = {"num_captions": "num_return_sequences"}
    expected = stock(
        model,
        pictures[:3],
        PROMPT,
        max_new_tokens=12,
        logits_processor=LogitsProcessorList([rule]),
        **{names.get(name, name): value for name, value in way.items()},
    )
    made = caption(model, pictures[:3], PROMPT, GenerateSettings(max_length=12, target_length=3, **way), 3)
    assert [each.token_ids for best in made for each in (best, *best.others)] == [tokens for tokens, _ in expected]


@pytest.mark.parametrize("target", [4, 7, 12])
@pytest.mark.parametrize("way", [{}, {"num_beams": 4}, {"temperature": 1.0}])
def test_nine_of_ten_captions_are_within_a_fifth(
    speaking: "ImageCaptioner", pictures: list[Image.Image], target: int, way: dict[str, Any]
) -> None:
    settings = GenerateSettings(max_length=100, target_length=target, **way)
    texts = [each.text for each in caption(speaking, pictures, PROMPT, settings, 3)]
    free = [each.text for each in caption(speaking, pictures, PROMPT, GenerateSettings(max_length=100, **way), 3)]
    assert length_kept_share(texts, target) >= 0.9 > length_kept_share(free, target)
    found = behaviour(texts, [], [False] * len(texts), [], "en", settings)
    assert found["length_kept_share"] == length_kept_share(texts, target)
    if "num_beams" not in way:
        assert "".join(stream_caption(speaking, pictures[0], PROMPT, settings)) == texts[0]


def test_the_start_of_a_caption_counts(speaking: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    settings = GenerateSettings(max_length=60, target_length=10, caption_start="A photo of a red")
    for beams in (1, 3):
        made = caption(speaking, pictures, PROMPT, settings.model_copy(update={"num_beams": beams}))
        assert length_kept_share([each.text for each in made], 10) >= 0.9


def test_a_target_needs_room() -> None:
    with pytest.raises(ValueError, match="raise max_length to at least twice the words"):
        GenerateSettings(max_length=10, target_length=11)


def test_words_are_found_in_captions() -> None:
    assert holds_word("A Dog runs.", "dog")
    assert not holds_word("A dogged man", "dog")
    assert holds_word("两只小狗", "狗")
    assert avoided_share(["a dog", "a cat", "a cow"], ["dog", "cat"]) == pytest.approx(1 / 3)
    assert GenerateSettings(avoid_words=" a dog, 狗，cat,,").avoided == ["a dog", "狗", "cat"]


def test_captions_hold_no_avoided_word(speaking: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    texts = [each.text for each in caption(speaking, pictures, PROMPT, GenerateSettings(max_length=9))]
    words = ["dogs", "mat", "cat"]
    assert avoided_share(texts, words) < 0.8
    settings = GenerateSettings(max_length=9, avoid_words=", ".join(words))
    assert avoided_share([each.text for each in caption(speaking, pictures, PROMPT, settings)], words) == 1


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}])
def test_avoided_words_equal_those_of_generate(
    model: "ImageCaptioner", pictures: list[Image.Image], stock: Callable[..., Any], way: dict[str, Any]
) -> None:
    free = caption(model, pictures, PROMPT, GenerateSettings(max_length=9, **way), 3)
    said = {text.strip() for each in free for text in (token_texts(model).texts[token] for token in each.token_ids)}
    words = [*sorted(word for word in said if word.isalpha() and word.isascii())[:6], "two words", "狗"]
    settings = GenerateSettings(max_length=9, avoid_words=", ".join(words), **way)
    avoided = avoided_tokens(model, settings.avoided)
    assert avoided.anywhere
    assert avoided.sequences
    made = caption(model, pictures, PROMPT, settings, 3)
    config = model.llava.generation_config
    begin, suppressed = config.begin_suppress_tokens or [], config.suppress_tokens or []
    expected = stock(
        model,
        pictures,
        PROMPT,
        max_new_tokens=9,
        suppress_tokens=sorted({*suppressed, *avoided.anywhere}),
        begin_suppress_tokens=sorted({*begin, *avoided.at_start}),
        bad_words_ids=[list(ids) for ids in avoided.sequences],
        **way,
    )
    assert [each.token_ids for each in made] == [tokens for tokens, _ in expected]
    assert not set(avoided.anywhere) & {token for each in made for token in each.token_ids}
    assert [each.token_ids for each in made] != [each.token_ids for each in free]
    if not way:
        assert "".join(stream_caption(model, pictures[0], PROMPT, settings)) == made[0].text
