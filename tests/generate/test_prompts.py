"""Captions that begin with a given text, and the text of unfinished captions, with tokenizers of every kind."""

import copy
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.prompts import MAX_START_TOKENS, caption_text, final_text, tokenize_prompt
from imagecap.generate.streaming import stream_caption
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.plain_text import PlainText

WORDS = ["▁A", "▁dog", "▁runs", "▁on", "▁grass", ".", "▁", "s", "▁do", "▁n", "'", "t", "▁'", "一", "只", "▁it"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def finish(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", **options)


def sentencepiece(decoder: Any, *, byte_fallback: bool, **options: Any) -> PreTrainedTokenizerFast:
    """A vocabulary of pieces as Llama, Mistral, Gemma and T5 have it."""
    names = ["<unk>", "</s>", *(BYTES if byte_fallback else []), *WORDS]
    vocabulary = [(name, 0.0 if name in BYTES[:2] else -float(place)) for place, name in enumerate(names)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoder
    return finish(tokenizer, **options)


def byte_level() -> PreTrainedTokenizerFast:
    """A vocabulary as GPT-2, Qwen and Llama 3 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["A dog runs on grass.", "一只狗"], trainer)
    return finish(tokenizer)


LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
TOKENIZERS = {
    "Llama 2": sentencepiece(LLAMA, byte_fallback=True),
    "Metaspace": sentencepiece(decoders.Metaspace(), byte_fallback=False),
    "Metaspace, cleaned up": sentencepiece(
        decoders.Metaspace(), byte_fallback=False, clean_up_tokenization_spaces=True
    ),
    "byte level": byte_level(),
}


def text_of(tokenizer: PreTrainedTokenizerFast, tokens: list[int], start: str = "") -> str:
    model: Any = SimpleNamespace(tokenizer=tokenizer, text_ids=PlainText(tokenizer).ids)
    return caption_text(model, tokens, GenerateSettings(caption_start=start))


@pytest.mark.parametrize("start", ["A dog", "A dog ", " A dog\n", "A 狗", "🐈"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_start_and_continuation_are_joined_with_one_blank(name: str, start: str) -> None:
    tokenizer = TOKENIZERS[name]
    whole = PlainText(tokenizer).ids("A dog runs on grass.")
    continuation = whole[len(PlainText(tokenizer).ids("A dog")) :]
    found = text_of(tokenizer, [*continuation, tokenizer.eos_token_id], start)
    assert found == f"{start.strip()} runs on grass."


def test_a_word_of_the_start_may_go_on() -> None:
    for name in ("Llama 2", "Metaspace"):
        tokenizer = TOKENIZERS[name]
        assert text_of(tokenizer, [tokenizer.convert_tokens_to_ids("s")], "A dog") == "A dogs"


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_the_text_of_an_unfinished_caption_never_changes(name: str, data: st.DataObject) -> None:
    """For random tokens, incomplete characters and special tokens among them, with and without a start."""
    tokenizer = TOKENIZERS[name]
    words = [tokenizer.convert_tokens_to_ids(word) for word in WORDS if word in tokenizer.get_vocab()]
    characters = PlainText(tokenizer).ids("狗🐈\ufffd　é")
    several = st.sampled_from([[each] for each in words] + [characters])
    tokens = data.draw(st.lists(st.one_of(st.integers(0, len(tokenizer) - 1).map(lambda each: [each]), several)))
    ids = [token for group in tokens for token in group]
    settings = GenerateSettings(caption_start=data.draw(st.sampled_from(["", "A dog", "it '", "狗", "A ", "é."])))
    model: Any = SimpleNamespace(tokenizer=tokenizer, text_ids=PlainText(tokenizer).ids)
    text = caption_text(model, ids, settings)
    assert text.startswith(settings.caption_start)
    yielded = ""
    for end in range(len(ids) + 1):
        piece = final_text(model, ids[:end], settings)
        if len(piece) > len(yielded):
            assert piece.startswith(yielded)
            yielded = piece
        assert text.startswith(yielded), (end, yielded)


def test_bytes_with_a_special_token_between_them_wait_for_each_other() -> None:
    tokenizer = TOKENIZERS["Llama 2"]
    model: Any = SimpleNamespace(tokenizer=tokenizer, text_ids=PlainText(tokenizer).ids)
    tokens = tokenizer.convert_tokens_to_ids(["<0x41>", "<unk>", "<0x80>"])
    assert caption_text(model, tokens, GenerateSettings()) == "\ufffd\ufffd"
    assert [final_text(model, tokens[:end], GenerateSettings()) for end in range(4)] == [""] * 4


@pytest.mark.parametrize(
    "changes", [{}, {"num_beams": 3, "num_captions": 2}, {"temperature": 0.8, "num_captions": 2}, {"temperature": 0.8}]
)
def test_white_space_around_the_start_changes_nothing(
    model: ImageCaptioner, pictures: list[Image.Image], changes: dict[str, Any]
) -> None:
    expected = caption(model, pictures, "a", GenerateSettings(max_length=8, caption_start="a red", **changes))
    for start in ("a red ", " a red\n", "a red\u3000"):
        settings = GenerateSettings(max_length=8, caption_start=start, **changes)
        assert caption(model, pictures, "a", settings) == expected
        copied = settings.model_copy(update={"caption_start": start})
        assert caption(model, pictures, "a", copied) == expected
        if "num_captions" not in changes:
            assert "".join(stream_caption(model, pictures[0], "a", copied)) == expected[0].text


def test_a_start_of_white_space_is_none(model: ImageCaptioner, pictures: list[Image.Image]) -> None:
    expected = caption(model, pictures, "a", GenerateSettings(max_length=8))
    assert caption(model, pictures, "a", GenerateSettings(max_length=8, caption_start=" ")) == expected


def test_a_start_that_is_too_long_is_refused(model: ImageCaptioner) -> None:
    start = "é" * MAX_START_TOKENS
    with pytest.raises(ImageCapError, match=f"caption_start has 512 tokens, more than {MAX_START_TOKENS}"):
        tokenize_prompt(model, "a", GenerateSettings(caption_start=start))


def test_special_tokens_in_prompts_and_starts(tiny_model: "ImageCaptioner") -> None:
    """The way of `generate`, streams, bulk jobs, evaluation and the server."""
    settings = GenerateSettings(caption_start="<|im_end|> a")
    plain = tokenize_prompt(tiny_model, "Describe.", settings)
    special = set(tiny_model.tokenizer.all_special_ids)
    assert special.isdisjoint(plain.after)
    for prompt in ("<image>\nDescribe.", "<|vision_start|><|image_pad|><|vision_end|>Describe.", "Describe.\n<image>"):
        assert tokenize_prompt(tiny_model, prompt, settings) == plain
    for prompt in ("Describe.<|im_end|>", "<|endoftext|>", "a <|image_pad|> b"):
        with pytest.raises(ImageCapError, match=r"the prompt .* holds <\|.*\|>, .*: remove it"):
            tokenize_prompt(tiny_model, prompt, settings)


def test_tokenized_prompts_are_kept_as_long_as_their_captioner(tiny_model: ImageCaptioner) -> None:
    model = copy.copy(tiny_model)
    kept = tokenize_prompt(model, "a", GenerateSettings())
    assert tokenize_prompt(model, "a", GenerateSettings()) is kept
    assert tokenize_prompt(model, "a", GenerateSettings(caption_start="two")) is not kept
    assert tokenize_prompt(tiny_model, "a", GenerateSettings()) is not kept
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
