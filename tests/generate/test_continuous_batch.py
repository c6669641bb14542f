"""Rows that join and leave a running batch say what they would have said alone."""

from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption, start_caption
from imagecap.generate.decoders import supports_continuous_batching
from imagecap.generate.prompts import embed_prefixes, tokenize_prompt

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

SETTINGS = GenerateSettings(max_length=14)
PROMPTS = ("Describe this image.", "描述这张图片。", "a", "a red cat on a green mat, in a few words please")


def alone(model: "ImageCaptioner", pictures: list[Image.Image]) -> list[tuple[list[int], float]]:
    said = [caption(model, [each], PROMPTS[place % 4], SETTINGS)[0] for place, each in enumerate(pictures)]
    return [(each.token_ids, each.score) for each in said]


def admit(batch: ContinuousBatch, model: "ImageCaptioner", image: Image.Image, text: str, key: int) -> torch.Tensor:
    """Let a picture join a batch; returns the embeddings of its prefix."""
    prompt, pixels = tokenize_prompt(model, text, SETTINGS), model.pixel_values([image])
    prefix, ids = embed_prefixes(model, model.encode_images(pixels), [prompt])
    batch.admit(prefix, [start_caption(model, prompt, SETTINGS, ids[0], pixels[0], key)])
    return prefix


@torch.inference_mode()
@pytest.mark.parametrize("pace", [0, 1, 2, 5])
def test_joining_and_leaving_changes_no_token(model: "ImageCaptioner", pictures: list[Image.Image], pace: int) -> None:
    """A picture joins every `pace` steps (0: all at once), each with a prompt of another length."""
    expected = alone(model, pictures)
    assert len({len(tokens) for tokens, _ in expected}) > 2, "captions of various lengths"
    batch = ContinuousBatch(model)
    waiting = list(enumerate(pictures))
    found: dict[int, RunningCaption] = {}
    step = 0
    most_ages = 0
    while waiting or batch.rows:
        while waiting and (pace == 0 or step % pace == 0):
            place, picture = waiting.pop(0)
            admit(batch, model, picture, PROMPTS[place % 4], place)
            if pace:
                break
        most_ages = max(most_ages, len({len(row.tokens) for row in batch.rows}))
        for row in batch.step():
            found[row.key] = row
        step += 1
    assert pace == 0 or most_ages > 1, "rows of different ages were together"
    for place, (tokens, score) in enumerate(expected):
        assert found[place].tokens == tokens
        assert found[place].score == pytest.approx(score, abs=1e-5)


@torch.inference_mode()
def test_logits_equal_those_of_the_whole_pass(model: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    """In float64: after every step, the logits are those of one pass over prefix and tokens."""
    model.double()
    batch = ContinuousBatch(model)
    read: dict[int, torch.Tensor] = {}
    for step in range(8):
        if step % 2 == 0:
            place = step // 2
            read[place] = admit(batch, model, pictures[place], PROMPTS[place], place)
        for place, row in enumerate(batch.rows):
            said = model.embed_tokens(torch.tensor([row.tokens], dtype=torch.long))
            whole = model.language_model(inputs_embeds=torch.cat((read[row.key], said), dim=1)).last_hidden_state
            expected = model.lm_head(whole[:, -1]).float()[0]
            torch.testing.assert_close(batch.logits[place], expected, rtol=1e-6, atol=1e-6)
        batch.step()


@torch.inference_mode()
def test_a_failed_prefix_leaves_the_others_alone(model: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    expected = alone(model, pictures[:1])[0][0]
    batch = ContinuousBatch(model)
    admit(batch, model, pictures[0], PROMPTS[0], 0)
    batch.step()
    with pytest.raises(RuntimeError):
        batch.admit(torch.zeros(1, 3, 7), batch.rows)
    done: list[RunningCaption] = []
    while batch.rows:
        done += batch.step()
    assert [row.tokens for row in done] == [expected]


def test_which_models_share_a_batch(model: "ImageCaptioner") -> None:
    assert supports_continuous_batching(model)
    config = model.language_model.config
    config.use_sliding_window, config.sliding_window, config.layer_types = True, 8, ["sliding_attention"]
    assert not supports_continuous_batching(model)
