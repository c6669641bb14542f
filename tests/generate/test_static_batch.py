"""Steps with a cache give the logits of a whole forward pass, for rows and for beams, on several language models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from imagecap.config import GenerateSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.generate.beam_search import BeamSearch
from imagecap.generate.cache import KeyValueCache, compact_rows
from imagecap.generate.captioner import caption
from imagecap.generate.decoders import check_decoder
from imagecap.generate.rules import Rules
from imagecap.generate.static_batch import STEPS_AHEAD, StaticBatch
from imagecap.generate.stock_decoder import GROUPED_SDPA, grouped_sdpa
from imagecap.model.attention import attention_kernel
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner

Sharpen = Callable[[ImageCaptioner], ImageCaptioner]
PREFIX = 21


@pytest.fixture
def prefix(model: ImageCaptioner) -> torch.Tensor:
    return torch.randn((3, PREFIX, model.language_model.config.hidden_size), generator=torch.Generator().manual_seed(4))


def whole(model: ImageCaptioner, prefix: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Teacher-forced logits `[vocabulary]` after one prefix `[tokens, hidden]` and `tokens`."""
    text = model.embed_tokens(torch.tensor([tokens], dtype=torch.long))
    hidden = model.language_model(inputs_embeds=torch.cat((prefix[None], text), dim=1)).last_hidden_state
    return model.lm_head(hidden[0, -1])


@torch.inference_mode()
def test_steps_equal_the_whole_pass_while_rows_leave(model: ImageCaptioner, prefix: torch.Tensor) -> None:
    batch = StaticBatch(model)
    logits = batch.prefill(prefix)
    said: list[list[int]] = [[], [], []]
    rows = [0, 1, 2]
    random = torch.Generator().manual_seed(5)
    for step in range(2 * STEPS_AHEAD + 3):  # the buffers grow on the way
        for place, row in enumerate(rows):
            torch.testing.assert_close(logits[place], whole(model, prefix[row], said[row]), rtol=1e-4, atol=1e-4)
        if step in (3, STEPS_AHEAD + 1):
            order = batch.drop_rows([0])
            rows = [rows[place] for place in order.tolist()]
        tokens = torch.randint(0, 300, (len(rows),), generator=random)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            said[row].append(token)
        logits = batch.step(tokens)
    assert len(rows) == 1


@torch.inference_mode()
def test_beams_equal_the_whole_pass_while_they_are_reordered(model: ImageCaptioner, prefix: torch.Tensor) -> None:
    beams = 4
    batch = StaticBatch(model, beams)
    batch.prefill(prefix)
    random = torch.Generator().manual_seed(6)
    said: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in prefix]
    rows = [0, 1, 2]
    ancestors = torch.empty((3, beams, 0), dtype=torch.long)
    most = 0
    for step in range(2 * STEPS_AHEAD + 3):
        parents = torch.randint(0, beams, (len(rows), beams), generator=random)
        ancestors = torch.stack([row[chosen] for row, chosen in zip(ancestors, parents, strict=True)])
        tokens = torch.randint(0, 300, (len(rows), beams), generator=random)
        for place, row in enumerate(rows):
            chosen = zip(parents[place].tolist(), tokens[place].tolist(), strict=True)
            said[row] = [[*said[row][parent], token] for parent, token in chosen]
        ancestors = batch.drop_dead_slots(ancestors)
        new = batch.free_slots(beams)[None, :, None].expand(len(rows), -1, 1)
        ancestors = torch.cat((ancestors, new), dim=2)
        logits = batch.step_beams(tokens, ancestors)
        most = max(most, batch.cache.slots)
        for place, row in enumerate(rows):
            for beam in range(beams):
                expected = whole(model, prefix[row], said[row][beam])
                torch.testing.assert_close(logits[place, beam], expected, rtol=1e-4, atol=1e-4)
        if step == 5:
            order = batch.drop_rows([1])
            rows = [rows[place] for place in order.tolist()]
            ancestors = ancestors[order]
    assert most == PREFIX + STEPS_AHEAD * beams  # dead slots were used again instead of allocating more


@torch.inference_mode()
def test_beams_take_a_third_of_the_memory(model: ImageCaptioner) -> None:
    prefix = torch.randn((2, 200, model.language_model.config.hidden_size))
    batch = StaticBatch(model, 5)
    batch.prefill(prefix)
    repeated = StaticBatch(model)
    repeated.prefill(prefix.repeat_interleave(5, dim=0))
    assert batch.cache.nbytes < repeated.cache.nbytes / 3


@torch.inference_mode()
def test_long_searches_use_dead_slots_again(model: ImageCaptioner, prefix: torch.Tensor) -> None:
    batch = StaticBatch(model, beams=3)
    rules = Rules(GenerateSettings(), [9999], torch.zeros((3, PREFIX), dtype=torch.long))
    search = BeamSearch(batch, batch.prefill(prefix), rules, 70, 3, 1.0)
    lengths: list[int] = []
    while search.pictures:
        lengths += [len(captions[0][0]) for captions in search.step().values()]
    assert lengths == [70, 70, 70]
    assert batch.cache.slots < PREFIX + 3 * STEPS_AHEAD + 70  # 210 without


def test_keys_are_not_copied_for_every_head(
    model: ImageCaptioner, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerateSettings(max_length=10, num_beams=3)
    expected = caption(model, pictures, "x", settings)

    def refuse(*_: Any) -> None:
        raise AssertionError("keys were repeated")

    monkeypatch.setattr("transformers.integrations.sdpa_attention.repeat_kv", refuse)
    assert caption(model, pictures, "x", settings) == expected
    assert model.language_model.config._attn_implementation == "sdpa"
    with attention_kernel(model.language_model.config, GROUPED_SDPA, grouped_sdpa):  # as another thread may
        assert caption(model, pictures, "x", settings) == expected
        assert model.language_model.config._attn_implementation != "sdpa"
    assert model.language_model.config._attn_implementation == "sdpa"


def test_the_last_remaining_rows_fill_the_gaps() -> None:
    assert compact_rows(6, [1, 4]) == [0, 5, 2, 3]
    assert compact_rows(6, [4, 5]) == [0, 1, 2, 3]
    assert compact_rows(4, [0, 1, 2]) == [3]
    assert compact_rows(3, [0, 1, 2]) == []


def test_cache_moves_rows_and_slots() -> None:
    cache = KeyValueCache(num_layers=1, rows=3, spare_slots=2)
    keys = torch.arange(12.0).view(3, 1, 4, 1)
    cache.update(keys, -keys, 0)
    cache.advance(4)
    assert cache.holds(2)
    assert not cache.holds(3)
    cache.keep_rows([2, 1])
    cache.keep_slots(2, torch.tensor([[1], [0]]))
    new = torch.tensor([20.0, 21.0]).view(2, 1, 1, 1)
    seen, values = cache.update(new, -new, 0)
    assert seen[:, 0, :, 0].tolist() == [[8, 9, 11, 20], [4, 5, 6, 21]]
    assert torch.equal(values, -seen)


def language_model(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 344}
    special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    more: dict[str, Any] = {"intermediate_size": 64, "num_key_value_heads": 2}
    if kind in ("gpt2", "gpt_neox"):
        more = {} if kind == "gpt2" else {"intermediate_size": 64}
    if kind == "mistral":
        more["sliding_window"] = 40
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **special, **more))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "mistral"])
def test_other_language_models(
    tiny_bases: ModelSettings,
    tmp_path: Path,
    sharpen: Sharpen,
    pictures: list[Image.Image],
    stock: Any,
    kind: str,
) -> None:
    language_model(kind).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bases.language_model_name).save_pretrained(tmp_path)
    model = sharpen(build(tiny_bases.model_copy(update={"language_model_name": str(tmp_path)})))
    model.llava.generation_config.eos_token_id = [25]
    model.llava.set_attn_implementation("eager" if kind == "gpt_neox" else "sdpa")
    for beams in (1, 3):
        settings = GenerateSettings(max_length=12, num_beams=beams)
        if kind == "mistral" and beams > 1:
            with pytest.raises(ImageCapError, match="attends over 40 tokens"):
                caption(model, pictures, "x" * 20, settings)
            continue
        theirs = stock(model, pictures, "x" * 20, max_new_tokens=12, num_beams=beams)
        ours = caption(model, pictures, "x" * 20, settings, 5)
        assert [one.token_ids for one in ours] == [tokens for tokens, _ in theirs]


def test_what_cannot_be_decoded_is_said(model: ImageCaptioner) -> None:
    config = model.language_model.config
    config._attn_implementation = "flash_attention_2"
    check_decoder(model, beams=1, tokens=100)
    with pytest.raises(ImageCapError, match="attn_implementation='sdpa'"):
        check_decoder(model, beams=2, tokens=100)
    config._attn_implementation = "sdpa"
    config.alibi = True
    with pytest.raises(ImageCapError, match="set num_beams to 1"):
        check_decoder(model, beams=2, tokens=100)
    config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ImageCapError, match="keeps a state"):
        check_decoder(model, beams=1, tokens=100)
