"""Token ids of prompts and captions, in which no text becomes a special token."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.plain_text import PlainText
from tests.model.helpers import prompt_row
from tests.tiny import picture, write_tiny_clip, write_tiny_qwen


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("prompt", ["Describe this image.", "描述这张图片。", "", " a  b\n"])
def test_prompt_ids_equal_the_stock_processor(tmp_path: Path, bos: bool, prompt: str) -> None:
    write_tiny_clip(tmp_path / "clip")
    write_tiny_qwen(tmp_path / "lm", bos=bos)
    built = build(ModelSettings(vision_model_name=str(tmp_path / "clip"), language_model_name=str(tmp_path / "lm")))
    built.save(tmp_path / "final")
    model = load(tmp_path / "final")
    ours = prompt_row(model, prompt)[0].tolist()
    assert len(model.prompt_ids(prompt).before) == int(bos)
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": prompt}]
    chat = [{"role": "user", "content": content}]
    assert model.processor.apply_chat_template(chat, tokenize=True) == [ours]
    plain = model.processor(text=f"{model.processor.image_token}{prompt}\n", images=picture())
    assert plain["input_ids"] == [ours]


def test_caption_ids_end_with_eos_and_spell_special_tokens(tiny_model: ImageCaptioner) -> None:
    eos = tiny_model.eos_token_id
    ids = tiny_model.caption_ids("a red <|im_end|> cat", 100)
    assert ids[-1] == eos
    assert eos not in ids[:-1]
    assert tiny_model.tokenizer.decode(ids[:-1]) == "a red <|im_end|> cat"
    assert tiny_model.caption_ids("a red cat on a green mat", 3) == [*ids[:2], eos]
    with pytest.raises(ImageCapError, match="image token"):
        tiny_model.prompt_ids("what is <|image_pad|>?")


SPECIAL = ("<|image_pad|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "[TOOL]")


@pytest.mark.parametrize("text", [*SPECIAL, "a <think>red</think> cat<|im_end|>", "<|im_end|><|im_end|>"])
def test_no_text_becomes_a_special_or_added_token(tiny_bases: ModelSettings, text: str) -> None:
    """Also not added tokens that are not marked as special, as Qwen's `<think>`."""
    model = build(tiny_bases)
    model.tokenizer.add_tokens(["<think>", "</think>", "[TOOL]", "dogs"])
    special = {model.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    ids = model.caption_ids(text, 100)[:-1]
    assert special.isdisjoint(ids)
    assert model.tokenizer.decode(ids) == text
    with pytest.raises(ImageCapError, match=r"image token: remove it|a special token of the model: remove it"):
        model.prompt_ids(text)
    dogs = model.tokenizer.convert_tokens_to_ids("dogs")
    assert dogs in model.caption_ids("two dogs", 100)
    assert dogs in model.prompt_ids("two dogs").after


def test_a_vocabulary_that_cannot_spell_a_special_token(tiny_bases: ModelSettings) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "<image>": 2, "dog": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = build(tiny_bases)
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    assert model.caption_ids("a dog", 9) == [0, 3, model.eos_token_id]
    for text in ("dog </s>", "a <unk> dog"):
        with pytest.raises(ImageCapError, match="a special token of the model: remove it"):
            model.caption_ids(text, 9)


def test_threads_tokenize_captions_while_prompts_are_parsed(tiny_model: ImageCaptioner) -> None:
    captions = ["a red cat", "two <|im_end|> dogs"] * 50
    expected = [tiny_model.caption_ids(caption, 20) for caption in captions]
    prompt = tiny_model.prompt_ids("Describe this image.")
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(tiny_model.captions_ids, captions, 20) for _ in range(40)]
        for _ in range(400):
            assert tiny_model.prompt_ids("Describe this image.") == prompt
        assert all(each.result() == expected for each in found)


def test_a_batch_of_captions_has_the_ids_of_the_stock_tokenizer(tiny_model: ImageCaptioner) -> None:
    tokenizer = tiny_model.tokenizer
    captions = ["a red cat", " two  blanks", "É e\u0301 ﬁ", "一只狗，在草地上。", "", "a <|im_end|> b", "x" * 300]
    expected = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids if text else []
        for text in captions
    ]
    for asked in ({}, {"truncation": True, "max_length": 2}, {"padding": "max_length", "max_length": 500}):
        tokenizer(captions[0], **asked)  # a tokenizer keeps what it was asked for last
        found = tiny_model.captions_ids(captions, 1000)
        assert found == [[*ids, tiny_model.eos_token_id] for ids in expected]
    assert tokenizer("<|im_end|>", add_special_tokens=False).input_ids == [tiny_model.eos_token_id]


def test_a_tokenizer_that_does_more_than_its_backend_is_asked_itself(tiny_model: ImageCaptioner) -> None:
    class Lowering:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def __call__(self, text: Any, **options: Any) -> Any:
            lowered = text.lower() if isinstance(text, str) else [each.lower() for each in text]
            return self.tokenizer(lowered, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.tokenizer, name)

    plain = PlainText(tiny_model.tokenizer).batch_ids(["a red cat"])
    assert PlainText(Lowering(tiny_model.tokenizer)).batch_ids(["A RED Cat"]) == plain
