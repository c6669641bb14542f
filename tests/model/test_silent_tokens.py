"""Which tokens a caption may not hold or not begin with, as the checkpoint says it."""

import json
from pathlib import Path

import pytest

from imagecap.config import ModelSettings
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner


def test_special_tokens_and_rows_without_a_token_are_suppressed(tiny_bases: ModelSettings) -> None:
    model = build(tiny_bases)
    config, tokenizer = model.llava.generation_config, model.tokenizer
    special = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|image_pad|>"])
    rows = range(len(tokenizer), model.lm_head.out_features)
    assert rows
    assert config.suppress_tokens == sorted([*special, *rows])


def test_no_caption_begins_with_an_end_token_or_a_blank(tiny_model: ImageCaptioner) -> None:
    begin = set(tiny_model.llava.generation_config.begin_suppress_tokens)
    assert tiny_model.eos_token_id in begin
    for text in (" ", "\n", "\t", "\x00"):
        assert tiny_model.text_ids(text)[0] in begin
    for text in ("a", " a", "!", "一", "é", "\u3000"):  # the first byte of a wide space begins visible characters too
        assert tiny_model.text_ids(text)[0] not in begin


def test_a_blank_that_the_tokenizer_itself_writes_may_begin_a_caption(tiny_model: ImageCaptioner) -> None:
    """Tokenizers of the SentencePiece kind put a blank token before text that has no token with a blank."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from imagecap.model.language_model.silent_tokens import suppress_silent_tokens

    words = ["<unk>", "</s>", "<image>", "▁", "▁cat", "猫", "\n"]
    backend = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    config = tiny_model.llava.generation_config
    config.suppress_tokens = config.begin_suppress_tokens = None
    config.eos_token_id = 1
    suppress_silent_tokens(tiny_model.llava, tokenizer)
    assert config.begin_suppress_tokens == [1, words.index("\n")]


def test_the_checkpoint_holds_them(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    tiny_model.save(tmp_path / "final")
    file = tmp_path / "final" / "generation_config.json"
    content = json.loads(file.read_text())
    names = ("suppress_tokens", "begin_suppress_tokens")
    expected = {name: content[name] for name in names}
    assert all(expected.values())

    older = {name: value for name, value in content.items() if name not in names}
    file.write_text(json.dumps(older))
    config = load(tmp_path / "final").llava.generation_config
    assert {name: getattr(config, name) for name in names} == expected

    file.write_text(json.dumps(older | {"suppress_tokens": [5]}))
    config = load(tmp_path / "final").llava.generation_config
    assert (config.suppress_tokens, config.begin_suppress_tokens) == ([5], None)


@pytest.mark.parametrize("ends", [[5, 6], 5])
def test_all_end_tokens_of_a_checkpoint_may_end_a_caption(
    tiny_model: ImageCaptioner, tmp_path: Path, ends: int | list[int]
) -> None:
    tiny_model.save(tmp_path / "final")
    file = tmp_path / "final" / "generation_config.json"
    special = tiny_model.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    listed = [*(ends if isinstance(ends, list) else [ends]), special]
    file.write_text(json.dumps({"eos_token_id": listed}))
    config = load(tmp_path / "final").llava.generation_config
    assert set(listed).isdisjoint(config.suppress_tokens)
    assert set(listed) <= set(config.begin_suppress_tokens)
